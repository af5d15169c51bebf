"""Retrieval: exact search against numpy, metrics against scikit-learn, the file of an index, and the command."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import retrieve as command
from jaxvision.errors import SetupError
from jaxvision.features import FeatureExtractor
from jaxvision.retrieval import Index, folder_labels, nearest, normalized, report, retrieval_scores
from jaxvision.visualization import palette
from jaxvision.visualization.retrieval import CELL, retrieval_sheet
from tests.conftest import strict
from tests.test_inference import write_run


def random_features(count, width=6, seed=0):
    return normalized(np.random.default_rng(seed).normal(size=(count, width)))


@pytest.mark.parametrize("chunk", [1, 7, 32, 100])
def test_search_in_chunks_is_exact(chunk):
    queries, gallery = random_features(5), random_features(32, seed=1)
    with strict():
        scores, places = nearest(jnp.asarray(queries), jnp.asarray(gallery), k=9, chunk=chunk)
    products = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    np.testing.assert_array_equal(places, np.argsort(-products, axis=1, kind="stable")[:, :9])
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :9], atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_equal_images_come_in_the_order_of_the_index(chunk):
    gallery = np.eye(4, dtype=np.float32)[[0, 1, 0, 2, 0, 1, 3]]
    scores, places = nearest(jnp.asarray(gallery[:2]), jnp.asarray(gallery), k=7, chunk=chunk)
    assert places.tolist() == [[0, 2, 4, 1, 3, 5, 6], [1, 5, 0, 2, 3, 4, 6]]
    assert scores[0].tolist() == [1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_metrics_equal_scikit_learn(leave_one_out):
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    gallery, labels = random_features(60), rng.integers(0, 4, 60)
    queries, asked = (gallery, labels) if leave_one_out else (random_features(23, seed=2), rng.integers(0, 5, 23))
    found = retrieval_scores(queries, asked, gallery, labels, topk=(1, 5, 100), leave_one_out=leave_one_out, chunk=7)
    precision, recall, at5 = [], [], []
    for i, (query, label) in enumerate(zip(queries, asked, strict=True)):
        keep = np.arange(60) != i if leave_one_out else np.ones(60, bool)
        scores, hits = (gallery @ query)[keep], (labels == label)[keep]
        if hits.any():
            order = np.argsort(-scores)
            precision.append(average_precision_score(hits, scores))
            recall.append(hits[order[:5]].any())
            at5.append(hits[order[:5]].mean())
    assert set(found) == {"map", "recall@1", "precision@1", "recall@5", "precision@5", "queries"}
    np.testing.assert_allclose(found["map"], np.mean(precision), rtol=1e-6)
    np.testing.assert_allclose(found["recall@5"], np.mean(recall), rtol=1e-9)
    np.testing.assert_allclose(found["precision@5"], np.mean(at5), rtol=1e-9)
    assert found["recall@1"] == found["precision@1"] and found["queries"] == len(precision)


def test_queries_without_any_image_of_their_class_do_not_count():
    found = retrieval_scores(random_features(2), np.array([7, 8]), random_features(3), np.array([1, 2, 3]))
    assert np.isnan(found["map"]) and found["queries"] == 0
    with pytest.raises(ValueError, match="2 queries, 3 rows"):
        retrieval_scores(random_features(2), np.zeros(2), random_features(3), np.zeros(3), leave_one_out=True)


def write_folders(folder, seed=0):
    """Two classes of noise: dark and light."""
    rng = np.random.default_rng(seed)
    for name, low in (("dark", 0), ("light", 180)):
        for i in range(3):
            path = folder / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(low, low + 60, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def test_an_index_is_read_again_and_refuses_another_model(tmp_path):
    write_run(tmp_path / "run")
    folder = write_folders(tmp_path / "images")
    extract = FeatureExtractor(tmp_path / "run")
    index = Index.build(extract, folder)
    assert index.features.shape == (6, extract.model.image_size[0] * extract.model.image_size[1])
    np.testing.assert_allclose(np.linalg.norm(index.features, axis=1), 1, rtol=1e-6)
    index.save(tmp_path / "index.safetensors")
    again = Index.load(tmp_path / "index.safetensors", extract)
    assert again.files == index.files and again.about == index.about
    np.testing.assert_array_equal(again.features, index.features)
    scores, places = again.search(extract([str(folder / "light" / "1.png")]), 3)
    assert places[0, 0] == 4 and scores[0, 0] == pytest.approx(1, abs=1e-6)

    write_run(tmp_path / "other", name="lenet5_digits:smoke")
    with pytest.raises(SetupError, match=r"index\.safetensors was made by another model \(\d+ and 84 numbers\)"):
        Index.load(tmp_path / "index.safetensors", FeatureExtractor(tmp_path / "other"))
    model = extract.model
    darker = FeatureExtractor(tmp_path / "run")
    changed = FeatureExtractor(darker.model.__class__(**{**vars(model), "preprocess": lambda b, key: {
        **b, "image": 1 - b["image"].astype(jnp.float32) / 255}}))  # fmt: skip
    with pytest.raises(SetupError, match=r"another model \(features differ by .*Index the folder again"):
        again.check(changed)
    with pytest.raises(SetupError, match="asked for the 7 nearest images of an index of 6"):
        again.search(extract([str(folder / "light" / "1.png")]), 7)


def test_a_file_without_an_index_is_refused(tmp_path):
    from jaxvision.pretrained.safetensors import save_safetensors

    save_safetensors(tmp_path / "weights.safetensors", {"a": np.zeros(3, np.float32)})
    with pytest.raises(SetupError, match="holds no index of images"):
        Index.load(tmp_path / "weights.safetensors")


def test_a_report_leaves_the_query_itself_out(tmp_path):
    files = tuple(str(tmp_path / name / f"{i}.png") for name in "ab" for i in range(2))
    # The first two rows are equal: each must find the other, not itself.
    rows = normalized(np.array([[1, 0], [1, 0], [0, 1], [0.1, 1]], np.float32))
    found = report(Index(rows, files, rows[:2]), top=8, rows=2)
    nearest_files = [[one["file"] for one in row["nearest"]] for row in found.queries]
    assert [row[0] for row in nearest_files] == [files[1], files[0], files[3], files[2]]
    assert all(row["file"] not in own and len(own) == 3 for row, own in zip(found.queries, nearest_files, strict=True))
    assert found.metrics["map"] == 1 and folder_labels(files) == ("a", "a", "b", "b")
    assert found.sheet.shape[0] > 2 * CELL


def test_the_sheet_frames_hits_and_misses():
    picture = np.zeros((4, 6), np.uint8)
    sheet = retrieval_sheet(
        [picture], [[picture, picture]], query_titles=["q"], titles=[["a", "b"]], hits=[[True, False]]
    )
    for color in (palette.RIGHT, palette.WRONG):
        assert (sheet == palette.rgb(color)).all(-1).sum() > 3 * CELL
    with pytest.raises(ValueError, match="1 queries with 2 rows"):
        retrieval_sheet([picture], [[], []], query_titles=["q"], titles=[[]])


def test_the_command_indexes_finds_and_reads_its_index_again(tmp_path, capsys):
    write_run(tmp_path / "run")
    folder, out = write_folders(tmp_path / "images"), tmp_path / "out"
    queries = write_folders(tmp_path / "queries", seed=1)
    arguments = ["--config", str(tmp_path / "run"), "--top", "3"]
    assert command.main([*arguments, "--index", str(folder), "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "index: 6 images" in said and "recall@1" in said
    assert sorted(path.name for path in out.iterdir()) == ["index.safetensors", "results.json", "sheet.png"]
    results = json.loads((out / "results.json").read_text())
    assert len(results["queries"]) == 6 and 0 <= results["metrics"]["map"] <= 1
    again = [*arguments, "--index", str(out / "index.safetensors"), "--query", str(queries / "dark")]
    assert command.main([*again, "--output", str(tmp_path / "again")]) == 0
    results = json.loads((tmp_path / "again" / "results.json").read_text())
    assert len(results["queries"]) == 3 and len(results["queries"][0]["nearest"]) == 3
    assert command.main([*arguments, "--index", str(tmp_path / "no"), "--output", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
