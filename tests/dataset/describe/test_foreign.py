"""Formats of other tools are refused by their names, with what to do; their folders are no classes."""

import json
from pathlib import Path

import pytest
from support.own_pictures import annotate, draw, write

from pipeline.dataset.describe.recognise import recognise_folder
from pipeline.dataset.describe.table import new_table_manifest
from pipeline.io.errors import DatasetError

COCO = json.dumps({"images": [{"file_name": "1.jpg"}], "annotations": [], "categories": []})
LABELME = json.dumps({"version": "5", "shapes": [], "imagePath": "0.jpg"})
BOXES = "filename,width,height,class,xmin,ymin,xmax,ymax\n0.jpg,16,12,cat,1,1,9,9\n"
OPEN_IMAGES = "ImageID,Source,LabelName,Confidence\n0,xclick,/m/01yrx,1\n"
PICTURES = ("train/0.jpg", "train/1.jpg", "val/2.jpg", "val/3.jpg")
SHAPES = {
    "boxes": ("CSV file of boxes", ("images/0.jpg",), {"labels.csv": BOXES}),
    "imagefolder": ("imagefolder", PICTURES, {"train/metadata.csv": "file_name,text\n0.jpg,a cat\n"}),
    "imagefolder jsonl": ("imagefolder", ("0.jpg",), {"metadata.jsonl": '{"file_name": "0.jpg"}\n'}),
    "img2dataset": ("img2dataset", ("00000/0.jpg", "00001/1.jpg"), {"00000/0.json": '{"caption": "a cat"}'}),
    "webdataset": ("webdataset", (), {"00000.tar": "", "00001.tar": ""}),
    "cvat": ("CVAT", ("images/0.jpg",), {"annotations.xml": "<annotations><version>1.1</version></annotations>"}),
    "parquet": ("Parquet", (), {"data/train-00000.parquet": "PAR1"}),
    "idx": ("IDX", (), {"train-images-idx3-ubyte": ""}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_formats_are_refused_by_their_names(tmp_path, name):
    word, pictures, files = SHAPES[name]
    root = tmp_path / "own"
    draw(root, *pictures)
    for path, text in files.items():
        write(root, path, text)

    with pytest.raises(DatasetError, match=rf"looks like .*{word}[\s\S]*picture,label,split.*--root .*own --name x"):
        recognise_folder(root, "x")


@pytest.mark.parametrize("folder", ["cat", "train"])
def test_xml_next_to_pictures_of_class_folders_could_mean_both(tmp_path, folder):
    root = tmp_path / "own"
    for place in (f"{folder}/cat" if folder == "train" else "cat", f"{folder}/dog" if folder == "train" else "dog"):
        draw(root, f"{place}/0.jpg", f"{place}/1.jpg")
        annotate(root, f"{place}/0.xml", "cat")

    with pytest.raises(DatasetError, match=r"XML next to pictures in folders that may be classes[\s\S]*--folders"):
        recognise_folder(root, "x")
    assert not recognise_folder(root, "x", "classes").has_boxes


def test_a_devkit_one_folder_deeper_is_named(tmp_path):
    draw(tmp_path, "own/VOCdevkit/VOC2012/JPEGImages/a.jpg")
    annotate(tmp_path, "own/VOCdevkit/VOC2012/Annotations/a.xml", "cat")
    with pytest.raises(DatasetError, match="lies in VOCdevkit/VOC2012/: give --root .*VOC2012"):
        recognise_folder(tmp_path / "own", "x")


TABLES = {
    "other.json": ('{"a": 1}', "a JSON file"),
    "boxes.csv": (BOXES, "a table of boxes"),
    "t.parquet": ("PAR1", "a Parquet file"),
    "t.xlsx": ("PK\x03\x04", "a spreadsheet"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_none_are_refused_in_one_line(tmp_path, name):
    text, word = TABLES[name]
    with pytest.raises(DatasetError, match=f"{word}.*, which is not read; expected CSV with the columns") as caught:
        new_table_manifest(write(tmp_path, name, text), None, "x", Path(tmp_path / "m"))
    assert "\n" not in str(caught.value)


ANNOTATIONS = {
    "coco.json": (COCO, "a COCO file", "coco"),
    "l.json": (LABELME, "a LabelMe file", "labelme"),
    "tasks.json": ('[{"id": 1, "annotations": [], "data": {}}]', "an export of Label Studio", "label-studio"),
    "metadata.jsonl": ('{"file_name": "0.jpg", "label": 0}\n', "JSON lines", "imagefolder"),
    "bbox.csv": (OPEN_IMAGES, "a table of Open Images", "open-images"),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_given_as_a_table_are_told_how_to_be_given(tmp_path, name):
    text, word, layout = ANNOTATIONS[name]
    with pytest.raises(DatasetError, match=f"{word}.*give the folder.* --annotations .* --layout {layout}"):
        new_table_manifest(write(tmp_path, name, text), None, "x", Path(tmp_path / "m"))
