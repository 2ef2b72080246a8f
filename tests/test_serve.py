"""The HTTP API: answers, refusals with their reasons, and bounds on everything that comes in."""

import asyncio
import gzip
import io
import json
import re
import threading
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from served import serving
from sppnet.classify.classifier import Classifier, Testing
from sppnet.data.image import read_image
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.errors import ConfigError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid
from sppnet.heads.fc_layers import detection_head
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.serve.feature_cache import FeatureCache
from sppnet.serve.limits import Limits, Refusal
from sppnet.serve.predictor import ServedDetector, raster_size
from sppnet.serve.worker import Worker
from sppnet.svm.linear_svm import LinearSVM

pytest.importorskip("fastapi", reason="needs the extra serve")
testclient = pytest.importorskip("starlette.testclient", reason="needs the package httpx2")
from fastapi import Request  # noqa: E402

from sppnet.serve.app import create_app  # noqa: E402
from sppnet.serve.request_body import read_images  # noqa: E402

CLASSES = ("cat", "dog")


def make_detector():
    """Says yes to about half of all windows."""
    torch.manual_seed(3)
    config = DetectorConfig(
        trunk="zf5", stride=None, width=0.1, scales=(96,), levels=(1, 2), max_proposals=60, finetune="none"
    )
    trunk = load_trunk("zf5", width=0.1).eval()
    length = trunk.channels * 5
    windows = ProposalHead(
        trunk.channels, WindowConfig(sizes=(2, 4), shapes=(0.5, 1.0, 2.0), hidden=8)
    ).eval()
    svm = LinearSVM(torch.randn(2, length) / 10, torch.zeros(2), CLASSES)
    regressor = BoxRegressor(torch.randn(2, 4, length) / 500, torch.zeros(2, 4), CLASSES)
    return Detector(DetectorComponents(CLASSES, config, trunk, windows, None, svm, regressor))


def make_classifier(views="full"):
    torch.manual_seed(0)
    network = SPPNet(load_trunk("zf5", width=0.0625), (1, 2, 3), 2, hidden=16).eval()
    nn.init.normal_(network.head.fc8.weight)
    return Classifier(network, CLASSES, Testing(scale_px=96, size_px=96, views=views), {})


def photograph(height=96, width=128, seed=0, kind="PNG"):
    """The bytes of a file."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="module")
def detector():
    return make_detector()


@pytest.fixture(scope="module")
def asked(detector):
    with testclient.TestClient(create_app(detector)) as client:
        yield client


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture(scope="module")
def asked_of_classifier(classifier):
    with testclient.TestClient(create_app(classifier)) as client:
        yield client


# --- answers -------------------------------------------------------------------------------------


def test_a_detector_finds_what_it_finds_without_a_server(asked, detector):
    content = photograph()  # of a size that needs no stretching
    answer = asked.post("/v1/detect", content=content)
    assert answer.status_code == 200
    told, expected = answer.json(), detector(content)
    assert [row["label"] for row in told["detections"]] == expected.names
    np.testing.assert_allclose([row["box"] for row in told["detections"]], expected.boxes, atol=1e-3)
    np.testing.assert_allclose([row["score"] for row in told["detections"]], expected.scores, atol=1e-5)
    assert (told["width"], told["height"]) == (128, 96)
    assert set(told["ms"]) <= {"read", "convolve", "propose", "pool and score", "suppress"}


def test_boxes_are_in_pixels_of_the_image_that_was_sent(asked):
    """Twice the size, once stretched: the same boxes twice as large, nearly."""
    told = asked.post("/v1/detect", content=photograph(211, 290)).json()
    assert (told["width"], told["height"]) == (290, 211)
    boxes = np.array([row["box"] for row in told["detections"]])
    assert boxes.max(0)[2] > 200
    assert (boxes.max(0) <= [290, 211, 290, 211]).all()


def test_options_change_what_is_found(asked):
    content = photograph()
    count = lambda query: len(asked.post(f"/v1/detect?{query}", content=content).json()["detections"])  # noqa: E731
    assert count("overlap=1") > count("overlap=0.3") > count("overlap=0.3&min_score=3") == 0


def test_a_classifier_says_what_it_says_without_a_server(asked_of_classifier, classifier):
    content = photograph()
    told, expected = (
        asked_of_classifier.post("/v1/classify?top=1", content=content).json(),
        classifier(content),
    )
    assert told["label"] == expected.label
    assert told["score"] == pytest.approx(expected.scores[0], abs=2e-3)  # maps are kept in half precision
    assert len(told["top"]) == 1


def test_a_classifier_that_warps_is_shown_squares():
    classifier = make_classifier("warp")
    content = photograph(70, 190)
    with testclient.TestClient(create_app(classifier)) as client:
        told = client.post("/v1/classify", content=content).json()
    assert [row["score"] for row in told["top"]] == pytest.approx(classifier(content).scores, abs=2e-3)


@pytest.mark.parametrize("server", ["asked", "asked_of_classifier"])
def test_windows_are_scored_on_the_map_that_is_there(request, server):
    client = request.getfixturevalue(server)
    work = (
        client.get("/v1/model").json()["kind"].replace("detector", "detect").replace("classifier", "classify")
    )
    key = client.post(f"/v1/{work}", content=photograph(96, 160)).json()["id"]
    boxes = [[0, 0, 160, 96], [30, 20, 90, 80], [3, 3, 4, 4]]
    told = client.post("/v1/windows", json={"id": key, "boxes": boxes}).json()
    assert "convolve" not in told["ms"]
    assert [row["box"] for row in told["windows"]] == boxes
    assert all({top["label"] for top in row["top"]} == set(CLASSES) for row in told["windows"])
    whole, middle, dot = (row["cells"] for row in told["windows"])
    assert (dot[2] - dot[0]) * (dot[3] - dot[1]) == 1
    assert (middle[2] - middle[0]) < (whole[2] - whole[0])
    x0, y0, x1, y1 = told["windows"][1]["area"]  # about the centres of its cells
    assert 20 < x0 < x1 < 100
    assert 10 < y0 < y1 < 90


def test_windows_score_as_the_detector_does(asked, detector):
    content = photograph()
    key, boxes = (
        asked.post("/v1/detect", content=content).json()["id"],
        np.array([[20, 20, 90, 80]], np.float32),
    )
    told = asked.post("/v1/windows", json={"id": key, "boxes": boxes.tolist()}).json()["windows"][0]
    maps = detector.extractor(read_image(content))
    scores = detector.parts.svm.scores(maps.pool(boxes, (1, 2)).float())[0]
    assert {row["label"]: row["score"] for row in told["top"]} == pytest.approx(
        dict(zip(CLASSES, scores.tolist(), strict=True)), abs=1e-4
    )


def test_the_same_file_is_convolved_once(asked):
    content = photograph(seed=7)
    first, again = (asked.post("/v1/detect", content=content).json() for _ in range(2))
    assert "convolve" in first["ms"]
    assert "convolve" not in again["ms"]
    assert (first["id"], first["detections"]) == (again["id"], again["detections"])


def test_of_several_images_a_damaged_one_is_told_in_its_place(asked):
    contents = {"a.png": photograph(), "b.png": b"no image", "c.jpg": photograph(kind="JPEG")}
    results = asked.post("/v1/detect", files=[("images", file) for file in contents.items()]).json()[
        "results"
    ]
    assert ["detections" in result for result in results] == [True, False, True]
    assert "not an image" in results[1]["error"]


def test_health_metrics_and_the_model(asked):
    assert asked.get("/health").json()["status"] == "ok"
    assert asked.get("/v1/model").json()["classes"] == list(CLASSES)
    asked.post("/v1/detect", content=photograph())
    lines = asked.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['sppnet_requests_total{path="/v1/detect",status="200"}']) >= 1
    assert float(values['sppnet_stage_seconds_total{stage="convolve"}']) > 0
    assert int(values["sppnet_kept_images"]) >= 1
    assert values["sppnet_queue"] == "0"


# --- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/page.css", "/page.js", "/drawing.js", "/camera.js", "/docs", "/openapi.json"]
)
def test_pages_need_nothing_from_elsewhere(asked, path):
    answer = asked.get(path)
    assert answer.status_code == 200
    assert "http" not in answer.text.replace("https://www.w3.org", "").replace("HTTPValidation", "")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_reference_tells_of_every_way_to_ask(asked):
    page = asked.get("/docs").text
    for path in ("POST /v1/detect", "POST /v1/windows", "GET /health", "GET /metrics", "min_score"):
        assert path in page
    assert "/v1/classify" not in asked.get("/openapi.json").json()["paths"]


# --- refusals ------------------------------------------------------------------------------------


def window_body(**parts):
    return json.dumps({"id": "x", "boxes": [[0, 0, 9, 9]], **parts}).encode()


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        pytest.param("detect", b"", 400, "body is empty", id="nothing sent"),
        pytest.param("detect", b"GIF89a no", 400, "cannot be read|not an image", id="a damaged image"),
        pytest.param("classify", photograph(), 404, "has a detector; ask /v1/detect", id="another kind"),
        pytest.param("detect?overlap=2", photograph(), 422, "overlap: .* 1; got '2'", id="too much overlap"),
        pytest.param("detect?min_score=nan", photograph(), 422, "min_score: ", id="a score that is none"),
        pytest.param("detect?minscore=1", photograph(), 422, "address has a field 'minscore'", id="a field"),
        pytest.param("detections", photograph(), 404, "no /v1/detections here; /docs", id="an address"),
        pytest.param("model", b"{}", 405, "/v1/model takes GET.*; got POST", id="a way of asking"),
        pytest.param("windows", b"[", 422, "the body must be", id="no JSON"),
        pytest.param("windows", b"[" * 100_000, 422, "the body must be", id="JSON nested deep"),
        pytest.param("windows", b"[]", 422, "the body must be", id="JSON of another kind"),
        pytest.param("windows", window_body(), 404, "send it again", id="an image never seen"),
        pytest.param("windows", window_body(boxes=[]), 422, "1 to 1000 boxes", id="no windows"),
        pytest.param("windows", window_body(boxes=[[0, 0, 0, 9]]), 422, "x0 < x1", id="an empty window"),
        pytest.param("windows", window_body(boxes=[[2e6, 0, 1e300, 9]]), 422, "x0 < x1", id="out of sight"),
        pytest.param("windows", window_body(boxes=[[0, 0, 1e400, 9]]), 404, None, id="an endless one is cut"),
        pytest.param("windows", b'{"id": "x", "boxes": [[0, 0, NaN, 9]]}', 422, "finite", id="no number"),
        pytest.param("windows", window_body(boxes=[[0, 0], [1]]), 422, "ValueError", id="ragged windows"),
        pytest.param("windows", window_body(boxes=[[0, 0, 9, 9]] * 1001), 422, "got 1001", id="many windows"),
        pytest.param("windows", window_body(id=3), 422, None, id="an id that is no text"),
    ],
)  # fmt: skip
def test_a_refusal_says_why(asked, path, content, status, message):
    answer = asked.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    if message:
        assert re.search(message, answer.json()["error"])


@pytest.mark.parametrize("told", [True, False], ids=["a length that is told", "a length that is not"])
def test_a_large_body_is_not_read_to_its_end(detector, told):
    start = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'

    def pieces():
        yield start
        yield from (b"x" * 1000 for _ in range(1000))

    with testclient.TestClient(create_app(detector, Limits(max_bytes=4000))) as client:
        for headers in ({}, {"content-type": "multipart/form-data; boundary=x"}):
            body = start + b"x" * 4000 if told else pieces()
            answer = client.post("/v1/detect", content=body, headers=headers)
            assert answer.status_code == 413
            assert "smaller image" in answer.json()["error"]


def test_a_large_image_is_not_decoded(detector, monkeypatch):
    monkeypatch.setattr("sppnet.serve.predictor.read_image", lambda *_: pytest.fail("decoded"))
    with testclient.TestClient(create_app(detector, Limits(max_pixels=95 * 128))) as client:
        answer = client.post("/v1/detect", content=photograph())
        assert answer.status_code == 413
        assert "128×96 pixels; 12,160 are taken at most" in answer.json()["error"]


@pytest.mark.parametrize(
    ("limits", "status", "message"),
    [
        pytest.param(Limits(queue=1), 503, "1 requests wait already; come back later", id="of all"),
        pytest.param(Limits(per_client=1), 429, "1 requests of yours wait", id="of one client"),
    ],
)
def test_beyond_the_queue_one_is_told_when_to_come_back(detector, limits, status, message):
    app = create_app(detector, limits)
    began, may_end = threading.Event(), threading.Event()

    def slow(content, question):
        began.set()
        assert may_end.wait(60)
        return {"ms": {}}

    with testclient.TestClient(app) as client:
        app.state.server.predictor.look = slow
        first = threading.Thread(target=client.post, args=("/v1/detect",), kwargs={"content": photograph()})
        first.start()
        assert began.wait(60)
        try:
            answer = client.post("/v1/detect", content=photograph())
            assert answer.status_code == status
            assert message in answer.json()["error"]
            assert int(answer.headers["retry-after"]) >= 1
            assert client.get("/health").json()["queue"] == 1
        finally:
            may_end.set()
            first.join()
        assert client.post("/v1/detect", content=photograph()).status_code == 200


@pytest.mark.parametrize("finetune", ["none", "fc"])
def test_an_rcnn_detector_is_refused(finetune):
    detector = make_detector()
    head = None if finetune == "none" else detection_head(8, 4, 2)
    detector.roi_extractor = make_roi_extractor(
        DetectorConfig(method="rcnn", finetune=finetune), FeatureExtractor(detector.parts.trunk, (96,)), head
    )
    with pytest.raises(ConfigError, match=r"too slow to serve; .* --method spp"):
        ServedDetector(detector)


# --- forms, HEAD and other sites -----------------------------------------------------------------


def test_options_come_as_fields_of_a_form_too(asked, asked_of_classifier):
    files = {"images": ("a.png", photograph(), "image/png")}
    every = asked.post("/v1/detect", files=files).json()["results"][0]["detections"]
    middle = sorted(row["score"] for row in every)[len(every) // 2]
    fields = {"min_score": str(middle), "overlap": "1"}
    some = asked.post("/v1/detect", files=files, data=fields).json()["results"][0]["detections"]
    query = asked.post("/v1/detect", params=fields, content=photograph()).json()["detections"]
    assert some == query
    assert min(row["score"] for row in some) >= middle > min(row["score"] for row in every)
    (answer,) = asked_of_classifier.post("/v1/classify", files=files, data={"top": "1"}).json()["results"]
    assert len(answer["top"]) == 1


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"min_score": "much"}, 422, r"min_score must be a number from -1e\+06 to 1e\+06; got 'much'"),
        ({"min_score": "nan"}, 422, "min_score must be a number"),
        ({"overlap": "2"}, 422, "overlap must be a number from 0 to 1; got '2'"),
        ({"threshold": "1"}, 422, "a field 'threshold'; /v1/detect knows min_score, overlap, and files"),
        ({str(i): "x" for i in range(9)}, 400, "at most 16 files and 8 fields was expected"),
    ],
    ids=["no number", "NaN", "too large", "unknown", "too many"],
)
def test_fields_that_are_not_understood_are_refused(asked, fields, status, message):
    answer = asked.post("/v1/detect", files={"images": photograph()}, data=fields)
    assert answer.status_code == status
    assert re.search(message, answer.json()["error"])


def test_an_image_sent_as_text_is_told_how_to_be_sent(asked):
    form = {"files": {"images": (None, "a.png")}}
    answer = asked.post("/v1/detect", **form)
    assert answer.status_code == 400
    assert (
        "images came as text. Send each image as a file part, as curl -F images=@" in answer.json()["error"]
    )


def test_head_is_answered_wherever_get_is(asked):
    paths = {route.path for route in asked.app.routes if "GET" in (route.methods or ())}
    assert {"/", "/health", "/metrics", "/v1/model", "/docs", "/openapi.json"} <= paths
    for path in paths:
        head, get = asked.head(path), asked.get(path)
        assert head.status_code == get.status_code == 200
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.headers["x-content-type-options"] == "nosniff"
    assert asked.head("/v1/detect").status_code == 405
    document = asked.get("/openapi.json").json()
    assert "head" not in {method for methods in document["paths"].values() for method in methods}


def test_head_has_no_body_over_the_wire(detector):
    with serving(detector) as url:
        request = urllib.request.Request(f"{url}/health", method="HEAD")
        with urllib.request.urlopen(request) as answer:
            assert (answer.status, answer.read()) == (200, b"")


def test_other_sites_may_ask_only_where_that_is_allowed(asked, detector):
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in asked.get("/health", headers=origin).headers
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    assert asked.options("/v1/detect", headers=preflight).status_code == 405
    with testclient.TestClient(create_app(detector, cors_origins=["https://example.org"])) as client:
        assert (
            client.get("/health", headers=origin).headers["access-control-allow-origin"] == origin["Origin"]
        )
        assert client.options("/v1/detect", headers=preflight).status_code == 200
        refused = client.post("/v1/detect", content=b"", headers=origin)
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == origin["Origin"]
        other = {"Origin": "https://example.com"}
        assert "access-control-allow-origin" not in client.get("/health", headers=other).headers


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "ftp://a", "https://", ""])
def test_what_is_no_origin_is_refused(detector, origin):
    with pytest.raises(ConfigError, match="an origin is a scheme and a host"):
        create_app(detector, cors_origins=[origin])


def test_every_scale_is_resized_from_the_image_itself(detector):
    several = make_detector()
    several.extractor.scales = (96, 64)
    object.__setattr__(several.config, "scales", (96, 64))
    image = read_image(photograph(150, 200))
    maps = ServedDetector(several).convolve(image)
    assert maps.sizes_hw == ((96, 128), (64, 85))
    for index, size_hw in enumerate(maps.sizes_hw):
        alone = detector.extractor(image, [size_hw])
        assert torch.equal(maps.maps[index], alone.maps[0])


# --- parts ---------------------------------------------------------------------------------------


def test_a_client_that_leaves_keeps_its_place_while_its_work_is_done():
    async def leave():
        worker, may_end = Worker(Limits()), threading.Event()

        async def ask():
            with worker.place("a"):
                await worker.run(may_end.wait)

        task = asyncio.create_task(ask())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0.1)
        held = worker.length
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        worker.close()
        return held, worker.length

    assert asyncio.run(leave()) == (1, 0)


def test_a_slow_body_gives_its_place_back(detector):
    limits = Limits(upload_seconds=0.05)

    async def never():
        await asyncio.sleep(60)

    request = Request({"type": "http", "headers": []}, never)
    with pytest.raises(Refusal, match=r"within 0\.05 seconds"):
        asyncio.run(read_images(request, limits))


def maps_of(size):
    grid = CellGrid(stride=1, center0=0, receptive_field=1)
    return FeatureMaps.of_one_tap((8, 8), ((8, 8),), (torch.zeros(1, size, 1),), grid)


def test_the_shelf_keeps_what_was_used_last():
    cache = FeatureCache(Limits(kept=2), clock=lambda: 0.0)
    for key in "ab":
        cache.put(key, maps_of(1))
    cache.get("a")
    cache.put("c", maps_of(1))
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]


def test_the_shelf_is_bounded_in_bytes_and_in_time():
    now = [0.0]
    cache = FeatureCache(Limits(kept_bytes=40, kept_seconds=10), clock=lambda: now[0])
    cache.put("a", maps_of(5))
    cache.put("b", maps_of(5))
    assert (len(cache), cache.size_bytes) == (2, 40)
    cache.put("c", maps_of(2))
    assert cache.get("a") is None
    now[0] = 11.0
    assert cache.get("b") is None
    assert len(cache) == 0


def test_images_are_convolved_in_few_sizes():
    sizes = [(height, width) for height in range(1, 400, 7) for width in range(1, 400, 7)]
    met = {raster_size(size_hw, 96) for size_hw in sizes}
    assert len(met) <= 2 * (4 * 96 // 32)
    assert all(min(size_hw) == 96 for size_hw in met)
    assert raster_size((300, 400), 96) == (96, 128)
    assert raster_size((400, 300), 688) == (928, 688)


@pytest.mark.parametrize("name", ["max_bytes", "queue", "kept_seconds"])
def test_limits_are_above_zero(name):
    with pytest.raises(ConfigError, match=f"{name} must be above 0"):
        Limits(**{name: 0})


# --- what other clients send -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "image/jpeg"},
        {"Content-Type": "application/octet-stream"},
        {"Content-Type": "application/x-www-form-urlencoded"},  # of curl --data-binary
    ],
    ids=str,
)
def test_the_bytes_of_an_image_are_taken_by_any_type_of_bytes(asked_of_classifier, headers):
    answer = asked_of_classifier.post("/v1/classify", content=photograph(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("application/json; charset=utf-8", "came as application/json: "),
        ("Application/JSON", "came as application/json: "),
        ("text/plain", "came as text/plain: "),
        ("multipart/mixed; boundary=x", "came as multipart/mixed: "),
    ],
)
def test_a_body_that_is_no_image_is_told_what_to_be(asked_of_classifier, kind, told):
    headers = {"Content-Type": kind}
    answer = asked_of_classifier.post("/v1/classify", content=b'{"image": "aGk="}', headers=headers)
    assert answer.status_code == 400
    assert told in answer.json()["error"]
    assert "as curl -F images=@photo.jpg" in answer.json()["error"]


def test_a_compressed_body_is_refused(asked_of_classifier):
    headers = {"Content-Encoding": "gzip"}
    answer = asked_of_classifier.post("/v1/classify", content=gzip.compress(photograph()), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"] == "a body is taken as it is; got one with Content-Encoding: gzip"


def test_a_form_is_one_in_capitals_too(asked_of_classifier):
    form = b'--x\r\nContent-Disposition: form-data; name="i"; filename="a.png"\r\n\r\n%b\r\n--x--\r\n'
    answer = asked_of_classifier.post(
        "/v1/classify",
        content=form % photograph(),
        headers={"Content-Type": "Multipart/Form-Data; boundary=x"},
    )
    assert len(answer.json()["results"]) == 1


def test_what_is_no_image_is_not_called_one_in_memory(asked_of_classifier):
    answer = asked_of_classifier.post("/v1/classify", content=b"@photo.jpg")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("what was sent as an image is not an image of a known format")
    files = {"images": ("a.jpg", b"")}
    (one,) = asked_of_classifier.post("/v1/classify", files=files).json()["results"]
    assert one["error"].startswith("what was sent as an image is empty")


def test_a_method_that_is_not_taken_is_told_those_that_are(asked):
    assert asked.put("/health").headers["Allow"] == "GET, HEAD"
    assert asked.get("/v1/detect").headers["Allow"] == "POST"


def test_an_address_without_end_is_not_repeated_whole(asked):
    answer = asked.get("/" + "a" * 50_000)
    assert answer.status_code == 404
    assert len(answer.content) < 400


def test_a_fault_of_the_server_is_json_too(detector, monkeypatch):
    app = create_app(detector)
    with testclient.TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr(app.state.server.predictor, "look", lambda *_: 1 / 0)
        answer = client.post("/v1/detect", content=photograph())
        assert answer.status_code == 500
        assert answer.json()["error"].startswith("the server failed (ZeroDivisionError); its log says where")
        assert 'path="/v1/detect",status="500"} 1' in client.get("/metrics").text
        assert client.get("/health").json()["queue"] == 0
