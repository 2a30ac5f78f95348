"use strict";
const $ = (id) => document.getElementById(id);
const FIRST = 8; // classes in the table, until more are asked for
let photo = null; // key of the photo on the page
let asked = 0; // only the last answer is shown
let all = false; // whether all classes are in the table
let shown = []; // the answers on the page, one per head

const make = (name, properties = {}, ...inner) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...inner);
  return element;
};

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

async function fetchJson(address, options) {
  const response = await fetch(address, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Run a request whose answer is null where a later one was begun, or where it failed, which is said.
async function ask(request, words) {
  const mine = ++asked;
  const started = performance.now();
  say(words);
  try {
    const answer = await request();
    if (mine !== asked) return null;
    say(`Done in ${((performance.now() - started) / 1000).toFixed(1)} s.`);
    return answer;
  } catch (error) {
    if (mine === asked) say(error.message, true);
    return null;
  }
}

const heads = () => [$("head").value, $("other")?.value].filter((name, i, names) => name && names.indexOf(name) === i);

function address(key, head, classes = []) {
  const values = new URLSearchParams({ head });
  if ($("k").value) values.set("k", $("k").value);
  for (const name of classes) values.append("class", name);
  return `photos/${key}?${values}`;
}

// The answers of all chosen heads on a photo; the second draws the classes of the first.
async function judgeAll(key, first = null, classes = []) {
  const [main, ...others] = heads();
  const answers = [first ?? (await fetchJson(address(key, main, classes)))];
  const names = answers[0].maps.map((item) => item.class);
  for (const head of others) answers.push(await fetchJson(address(key, head, names)));
  return answers;
}

function mapItems(answers) {
  return answers[0].maps.map((item, i) => {
    const pictures = answers.map((answer) => {
      const found = answer.maps.find((each) => each.class === item.class);
      return make("img", { src: found.map, alt: `heat map of ${item.class} by ${answer.head}` });
    });
    const of = answers.length > 1 ? ` (${answers.map((answer) => answer.head).join(", ")})` : "";
    const pair = make("div", { className: answers.length > 1 ? "pair" : "" }, ...pictures);
    return make("li", {}, make("figure", {}, pair, make("figcaption", {}, item.class, make("small", {}, of))));
  });
}

const number = (s) => (Math.abs(s) >= 0.001 || s === 0 ? s.toFixed(3) : s.toExponential(1));
const short = (s) => (s === 0 ? "0" : s.toPrecision(2));
// A head, and its k where that is not the chosen one, which only some heads have.
const headOf = (answer) => (answer.k === shown[0].k ? answer.head : `${answer.head} (k = ${answer.k})`);
const percent = (p) => (p < 0.005 ? "< 1 %" : p > 0.995 ? "> 99 %" : `${Math.round(100 * p)} %`);

function drawTable() {
  const several = shown.length > 1;
  const cells = ["Class"];
  for (const answer of shown) {
    const of = several ? ` ${headOf(answer)}` : "";
    if (answer.calibrated_on !== null) cells.push(`Probability${of}`);
    cells.push(`Score${of}`);
  }
  $("columns").replaceChildren(make("tr", {}, ...cells.map((text) => make("th", { scope: "col", textContent: text }))));
  const share = (s, answer) => s.probability ?? Math.max(0, s.score) / Math.max(...answer.scores.map((x) => x.score), 1e-9);
  const rows = shown[0].scores.map((s, i) => {
    const row = document.createElement("tr");
    const button = make("button", { type: "button", textContent: s.class });
    button.addEventListener("click", () => addMap(s.class));
    const name = row.insertCell();
    name.append(button);
    name.style.setProperty("--share", `${100 * share(s, shown[0])}%`);
    for (const answer of shown) {
      const own = answer.scores.find((each) => each.class === s.class);
      if (answer.calibrated_on !== null) row.insertCell().textContent = percent(own.probability);
      row.insertCell().textContent = number(own.score);
    }
    row.hidden = !all && i >= FIRST;
    return row;
  });
  $("scores").replaceChildren(...rows);
  $("more").hidden = all || rows.length <= FIRST;
  $("more").textContent = `Show all ${rows.length} classes`;
  $("meaning").textContent = shown
    .map((answer) => {
      const of = several ? `${headOf(answer)}: ` : "";
      if (answer.calibrated_on === null) return `${of}Scores are an order, no probabilities: higher is more likely, 0.5 means nothing.`;
      return `${of}Probability: the share of pictures scored like this that show the class, learnt from ${answer.calibrated_on.toLocaleString("en")} pictures that the head was not fitted on.`;
    })
    .join(" ");
}

function show(answers) {
  shown = answers;
  const [answer] = answers;
  photo = answer.photo;
  $("found").hidden = false;
  $("empty").hidden = true;
  $("picture").src = answer.picture;
  $("picture").alt = `the photo ${answer.name}`;
  $("caption").textContent = `${answer.name}: ${answer.patches.toLocaleString("en")} patches`;
  $("k").replaceChildren(...answer.ks.map((k) => new Option(k, k, false, k === answer.k)));
  $("k").disabled = answer.ks.length < 2;
  const ends = (end) => answers.map((each) => (answers.length > 1 ? `${each.head} ` : "") + short(each[end])).join(", ");
  // From 0, except where no value of a map is above it.
  $("lowest").textContent = answers.every((each) => each.lowest === 0) ? "0" : ends("lowest");
  $("highest").textContent = `${ends("highest")} mean score of the patches over a pixel`;
  drawTable();
  $("maps").replaceChildren(...mapItems(answers));
  for (const button of $("strip").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.key === photo));
  }
}

// A photo that was taken gets a thumbnail, by which it is shown again.
function addToStrip(answer) {
  const button = make("button", { type: "button" }, make("img", { src: answer.thumbnail, alt: answer.name }));
  button.dataset.key = answer.photo;
  button.addEventListener("click", async () => {
    const answers = await ask(() => judgeAll(answer.photo), "scoring ...");
    if (answers) show(answers);
  });
  $("strip").append(make("li", {}, button));
  $("strip").hidden = false;
}

async function take(fill, words) {
  const body = new FormData();
  fill(body);
  body.set("head", $("head").value);
  if ($("k").value) body.set("k", $("k").value);
  const answers = await ask(async () => {
    const first = await fetchJson("photos", { method: "POST", body });
    addToStrip(first);
    return judgeAll(first.photo, first);
  }, words);
  if (answers) show(answers);
}

async function look(files) {
  const photos = [...files];
  const failed = [];
  for (const [i, file] of photos.entries()) {
    const which = photos.length > 1 ? `${i + 1} of ${photos.length}: ` : "";
    await take((body) => body.set("photo", file), `${which}looking at ${file.name} ...`);
    if ($("status").classList.contains("error")) failed.push($("status").textContent);
  }
  if (failed.length) say(failed.join("; "), true);
}

async function judge() {
  if (!photo) return;
  const answers = await ask(() => judgeAll(photo), "scoring ...");
  if (answers) show(answers);
}

async function addMap(name) {
  const answers = await ask(() => judgeAll(photo, null, [name]), `drawing ${name} ...`);
  if (!answers) return;
  const [item] = mapItems(answers);
  for (const old of [...$("maps").children]) {
    if (old.querySelector("figcaption").firstChild.textContent === name) old.remove();
  }
  $("maps").prepend(item);
  item.scrollIntoView({ block: "nearest" });
}

$("file").addEventListener("change", (event) => look(event.target.files));
for (const button of document.querySelectorAll("[data-example]")) {
  const name = button.firstElementChild.alt;
  button.addEventListener("click", () => take((body) => body.set("example", button.dataset.example), `looking at ${name} ...`));
}
$("more").addEventListener("click", () => {
  all = true;
  drawTable();
});
for (const id of ["head", "other", "k"]) $(id)?.addEventListener("change", judge);
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
  });
}
addEventListener("drop", (event) => look(event.dataTransfer.files));
