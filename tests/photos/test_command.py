"""`osfer detect`: predictions for one face, several, none and a broken file; its page in a browser."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from open_set_fer.benchmark.evaluation.decisions import threshold_for
from open_set_fer.benchmark.planning.profile import load_profile
from open_set_fer.benchmark.storage.detectors import Box, Detector, load_detector
from open_set_fer.cli.main import app
from open_set_fer.datasets.faceset import BASIC, COMPOUND, CONTEMPT
from open_set_fer.datasets.synthetic.renderer import render_faces
from open_set_fer.errors import SuiteError
from open_set_fer.photos import detect as detecting
from open_set_fer.photos import serve as detect_server
from open_set_fer.photos.build import detector_protocol, with_valid_split
from open_set_fer.photos.detect import annotated, detect_faces
from tests.conftest import face_set
from tests.detectors import untrained_detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_detector(tmp_path_factory.mktemp("home") / "detectors" / "bars")


@pytest.fixture
def two_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finder sees two faces in every picture that is wider than high."""
    boxes = [Box(5, 5, 40, 40), Box(100, 5, 40, 40)]
    monkeypatch.setattr(detecting, "find_faces", lambda picture: boxes if picture.width > picture.height else [])


def photo(size=(200, 100)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def osfer(*arguments: object, **more):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


def test_the_decision_is_the_threshold(folder, two_faces):
    loaded = load_detector(folder)
    picture = Image.open(io.BytesIO(photo())).convert("RGB")
    faces = detect_faces(loaded, picture)
    assert len(faces) == 2
    low, high = sorted(face.unknown_score for face in faces)
    assert sum(faces[0].probabilities.values()) == pytest.approx(1)
    assert faces[0].unknown_score == pytest.approx(-max(faces[0].probabilities.values()))
    for threshold, decisions in ((low - 1e-9, ["unknown"] * 2), (low, ["known", "unknown"]), (high, ["known"] * 2)):
        again = Detector(loaded.description.model_copy(update={"threshold": threshold}), loaded.scorer)
        assert sorted(face.decision for face in detect_faces(again, picture)) == sorted(decisions)
    marked = annotated(picture, faces)
    assert marked.size == picture.size
    assert (np.asarray(marked) != np.asarray(picture)).any()


def test_good_files_go_on_beside_broken_ones_and_the_exit_code_says_so(folder, two_faces, tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(photo())
    (tmp_path / "in" / "deeper" / "a.png").write_bytes(photo((50, 100)))
    (tmp_path / "in" / "notes.txt").write_text("no picture, and not taken for one")
    home = folder.parent.parent
    run = osfer("detect", tmp_path / "in", "--json", "--home", home, "--out", tmp_path / "out")
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout)
    assert [len(entry["faces"]) for entry in answer["photos"]] == [2, 0]
    pictures = {entry["picture"] for entry in answer["photos"]}
    assert len(pictures) == 2
    assert all(Image.open(picture).format == "JPEG" for picture in pictures)
    (tmp_path / "in" / "broken.jpg").write_text("hello")
    run = osfer("detect", tmp_path / "in", "-", "--detector", folder, "--out", tmp_path / "out", input=photo())
    assert run.exit_code == 1
    assert "no face found" in run.stdout
    assert "not read" in run.stdout
    assert run.stdout.count("middle") >= 4  # two faces in a.png, two on standard input


def test_hidden_files_and_other_formats_in_a_folder_are_passed_over_and_said(folder, two_faces, tmp_path, caplog):
    (tmp_path / "in" / ".thumbnails").mkdir(parents=True)
    (tmp_path / "in" / "a.jfif").write_bytes(photo())
    for name in ("._a.jpg", ".thumbnails/b.png", "c.heic", "d.HEIC"):
        (tmp_path / "in" / name).write_bytes(photo())
    run = osfer("detect", tmp_path / "in", "--json", "--detector", folder, "--out", tmp_path / "out")
    assert run.exit_code == 0, run.output
    assert [Path(entry["photo"]).name for entry in json.loads(run.stdout)["photos"]] == ["a.jfif"]
    assert "2 files: .heic 2 (c.heic, d.HEIC), 2 hidden files" in caplog.text


def test_words_of_neighbours_do_not_cover_each_other(monkeypatch):
    areas, write = [], detecting._write
    monkeypatch.setattr(detecting, "_write", lambda *args: areas.append(write(*args)) or areas[-1])
    faces = [
        detecting.Face((100.0 + 90 * i, 100, 80), "happiness", {"happiness": 0.9}, 0.5, "unknown") for i in range(2)
    ]
    annotated(Image.new("RGB", (400, 300)), faces)
    one, other = areas
    assert other[0] < one[2]
    assert other[1] >= one[3]  # below its frame instead, since above there is no room


def test_no_annotated_picture_takes_an_originals_place(folder, two_faces, tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo())
    run = osfer("detect", tmp_path, "--json", "--detector", folder, "--out", tmp_path)
    assert [Path(entry["picture"]).name for entry in json.loads(run.stdout)["photos"]] == ["a-2.jpg"]
    assert (tmp_path / "a.jpg").read_bytes() == photo()
    (tmp_path / "a-2.jpg").unlink()
    for _ in range(2):  # what lies there from the first time is not a photograph to look at
        run = osfer("detect", tmp_path, "--json", "--detector", folder, "--out", tmp_path / "detected")
        assert [Path(entry["picture"]).name for entry in json.loads(run.stdout)["photos"]] == ["a.jpg"]


def test_a_missing_detector_and_a_missing_photo_are_said(tmp_path):
    with pytest.raises(SuiteError, match="no detector under"):
        osfer("detect", "a.jpg", "--home", tmp_path, catch_exceptions=False)
    with pytest.raises(SuiteError, match="no photograph is named"):
        osfer("detect", "--home", tmp_path, catch_exceptions=False)


def test_at_least_the_share_of_known_faces_is_accepted():
    rng = np.random.default_rng(0)
    for share, n in ((0.95, 20), (0.95, 1000), (0.5, 3), (0.999, 10)):
        scores = rng.normal(size=n)
        accepted = (scores <= threshold_for(scores, share)).mean()
        assert share <= accepted + 1e-12 < share + 1 / n + 1e-9


def test_known_classes_and_held_out_faces(every_class):
    assert detector_protocol((*BASIC, *COMPOUND, CONTEMPT), "").open == (CONTEMPT,)
    assert set(detector_protocol((*BASIC, *COMPOUND), "").open) == set(COMPOUND)
    assert detector_protocol(BASIC, "").closed == BASIC
    assert detector_protocol(BASIC, "fear+anger").open == ("fear", "anger")
    assert with_valid_split(every_class) is every_class
    faces = face_set(np.repeat([0, 1], 25), np.tile(["train"] * 20 + ["test"] * 5, 2), BASIC[:2])
    held = with_valid_split(faces)
    assert [int((held.split[held.labels == k] == "valid").sum()) for k in (0, 1)] == [2, 2]
    assert held.fingerprint != faces.fingerprint


def test_held_out_faces_are_not_called_a_split_of_the_data_set(tmp_path):
    pytest.importorskip("dlib")
    profile = tmp_path / "held-out.toml"
    text = load_profile("smoke").text
    profile.write_text(text.replace("valid_per_class = 10", "valid_per_class = 0"), "utf-8")
    run = osfer("detector", "build", "-p", profile, "-m", "knn", "--home", tmp_path / "home")
    assert run.exit_code == 0, run.output
    assert "known faces (every 10th training image of a class, not trained on)" in run.stdout


@pytest.fixture
def address(folder):
    server = detect_server.Server(load_detector(folder), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def request(port: int, method: str, path: str, body: bytes | None = None, **headers: str):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
    reply = connection.getresponse()
    return reply.status, reply.read(), dict(reply.getheaders())


def test_the_page_escapes_names_and_lets_nothing_else_in(address):
    status, page, headers = request(address, "GET", "/")
    assert status == 200
    assert b"&lt;b&gt;low&lt;/b&gt;" in page
    assert b"<b>low" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert request(address, "GET", "/../pyproject.toml")[0] == 404
    assert request(address, "GET", "/", Host=f"evil.example:{address}")[0] == 404


def test_the_page_answers_photographs_within_limits(address, two_faces, monkeypatch):
    status, body, _ = request(address, "POST", "/detect", photo())
    assert status == 200
    assert len(json.loads(body)["faces"]) == 2
    assert json.loads(body)["picture"].startswith("data:image/jpeg;base64,")
    assert request(address, "POST", "/detect", b"hello")[0] == 422
    assert request(address, "POST", "/detect", photo(), Origin="http://evil.example")[0] == 403
    assert request(address, "POST", "/detect", photo(), Host="evil.example")[0] == 403
    monkeypatch.setattr(detect_server, "MOST_BYTES", 10)
    assert request(address, "POST", "/detect", photo())[0] == 413


@pytest.mark.slow
def test_a_photograph_dropped_on_the_page_is_answered(folder, two_faces, address, tmp_path):
    """In headless Chromium: chosen in the file field, and dropped; a name with mark-up stays text."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or pytest.skip("no chromium")
    path = tmp_path / "<img src=x onerror=document.title=1>.png"
    path.write_bytes(photo())
    (tmp_path / "broken.jpg").write_text("hello")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
            page.goto(f"http://127.0.0.1:{address}/")
            page.set_input_files("input", str(path))
            page.wait_for_selector("article img")
            assert page.locator("article p").first.inner_text() == "2 faces, from left to right"
            assert page.locator("article tbody tr").count() == 2
            assert page.locator("article h2").inner_text() == path.name
            assert page.evaluate("document.querySelector('article img').naturalWidth") == 200
            assert page.title() == "osfer detect"
            assert not errors
            dropped = """([name, bytes]) => { const given = new DataTransfer();
                given.items.add(new File([new Uint8Array(bytes)], name));
                document.getElementById("drop").dispatchEvent(
                    new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true })); }"""
            page.evaluate(dropped, ["again.png", list(photo())])
            page.locator("article img").nth(1).wait_for()  # the page's policy lets no string be evaluated
            page.set_input_files("input", str(tmp_path / "broken.jpg"))
            page.wait_for_selector("article .error")
            assert "no picture that can be read" in page.locator("article .error").inner_text()
        finally:
            browser.close()


@pytest.mark.slow
def test_a_built_detector_names_expressions_in_drawn_photographs(tmp_path):
    """Build and prediction on rendered faces that are found; and how long a prediction takes."""
    pytest.importorskip("dlib")
    (tmp_path / "drawn.toml").write_text(
        'base = "demo"\ndescription = "d"\nselection = "s"\n'
        "[datasets.synthetic]\ntrain_per_class = 250\ntest_per_class = 20\ncompound_per_class = 0\n"
        "contempt_per_class = 20\nvalid_per_class = 0\n",
        "utf-8",
    )
    home = tmp_path / "home"
    run = osfer("detector", "build", "-p", tmp_path / "drawn.toml", "-m", "knn", "--home", home, "--json")
    assert run.exit_code == 0, run.output
    made = json.loads(run.stdout)
    assert made["crop"]["measured_on"] > 100
    assert made["calibration"]["faces"] == 175
    assert made["calibration"]["split"] == "every 10th training image of a class, not trained on"
    assert 0.8 < made["calibration"]["accepted_known"] <= 1
    wanted = [3, 0, 3, 0]  # happiness, surprise: the easiest to tell
    picture = Image.new("RGB", (1000, 400), (190, 200, 210))
    for number, face in enumerate(render_faces(np.array(wanted), 11, 96, start=0)):
        picture.paste(Image.fromarray(face[0]).resize((160, 160)), (40 + 240 * number, 100))
    loaded = load_detector(Path(made["folder"]))
    found = detect_faces(loaded, picture)
    assert len(found) == 4
    for number, face in enumerate(found):  # each is cropped as the training faces are: as it was drawn
        assert face.square == pytest.approx((40 + 240 * number, 100, 160), abs=30)
        assert face.expression == max(face.probabilities, key=face.probabilities.__getitem__)
    start = time.process_time()
    detect_faces(loaded, picture)
    assert time.process_time() - start < 1  # 0.1 s on a free core; the machine may be a slow one
    with pytest.raises(SuiteError, match="scores a pool of faces"):
        osfer("detector", "build", "-p", "smoke", "-m", "ours", "--home", home, catch_exceptions=False)
