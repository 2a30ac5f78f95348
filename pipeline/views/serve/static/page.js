"use strict";
const $ = (id) => document.getElementById(id);
let photo = null; // key of the photo on the page
let asked = 0; // only the last answer is shown

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

async function ask(request, words) {
  const mine = ++asked;
  const started = performance.now();
  say(words);
  try {
    const response = await request();
    const answer = await response.json();
    if (mine !== asked) return null;
    if (!response.ok) throw new Error(answer.error);
    say(`${((performance.now() - started) / 1000).toFixed(1)} s`);
    return answer;
  } catch (error) {
    if (mine === asked) say(error.message, true);
    return null;
  }
}

function mapItem(item) {
  const [li, figure, img, caption] = ["li", "figure", "img", "figcaption"].map((n) => document.createElement(n));
  img.src = item.map;
  img.alt = `heat map of ${item.class}: yellow where its patches score highest`;
  caption.textContent = item.class;
  figure.append(img, caption);
  li.append(figure);
  return li;
}

function show(answer) {
  photo = answer.photo;
  $("found").hidden = false;
  $("picture").src = answer.picture;
  $("picture").alt = `the photo ${answer.name}`;
  $("caption").textContent = `${answer.name}: ${answer.patches} patches`;
  $("k").replaceChildren(...answer.ks.map((k) => new Option(k, k, false, k === answer.k)));
  $("k").disabled = answer.ks.length < 2;
  $("highest").textContent = `${answer.highest.toPrecision(2)} mean score of the patches over a pixel`;
  const most = Math.max(...answer.scores.map((s) => s.score), 1e-9);
  $("scores").replaceChildren(
    ...answer.scores.map((s) => {
      const row = document.createElement("tr");
      const [name, score] = [row.insertCell(), row.insertCell()];
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = s.class;
      button.addEventListener("click", () => addMap(s.class));
      name.append(button);
      name.style.setProperty("--share", `${(100 * Math.max(0, s.score)) / most}%`);
      score.textContent = Math.abs(s.score) >= 0.001 || s.score === 0 ? s.score.toFixed(3) : s.score.toExponential(1);
      return row;
    }),
  );
  $("maps").replaceChildren(...answer.maps.map(mapItem));
}

const chosen = () => {
  const values = new URLSearchParams({ head: $("head").value });
  if ($("k").value) values.set("k", $("k").value);
  return values;
};

async function look(file) {
  if (!file) return;
  const body = new FormData();
  body.set("photo", file);
  for (const [name, value] of chosen()) body.set(name, value);
  const answer = await ask(() => fetch("photos", { method: "POST", body }), `looking at ${file.name} ...`);
  if (answer) show(answer);
}

async function judge() {
  if (!photo) return;
  const answer = await ask(() => fetch(`photos/${photo}?${chosen()}`), "scoring ...");
  if (answer) show(answer);
}

async function addMap(name) {
  const values = chosen();
  values.set("class", name);
  const answer = await ask(() => fetch(`photos/${photo}?${values}`), `drawing ${name} ...`);
  if (!answer) return;
  const item = mapItem(answer.maps[0]);
  $("maps").prepend(item);
  item.scrollIntoView({ block: "nearest" });
}

$("file").addEventListener("change", (event) => look(event.target.files[0]));
$("head").addEventListener("change", judge);
$("k").addEventListener("change", judge);
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
  });
}
addEventListener("drop", (event) => look(event.dataTransfer.files[0]));
