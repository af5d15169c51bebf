"""Videos and cameras: frames in order and in constant memory, errors, annotated videos, and the predict command."""

import json
from typing import ClassVar

import cv2
import numpy as np
import pytest

from jaxvision.errors import SetupError
from jaxvision.inference import Camera, Saver, Video, VideoError
from jaxvision.inference import videos as module
from jaxvision.inference.inputs import expand, listed
from tests.test_inference import brightness, run_command, write_image, write_run

VALUES = [20, 60, 100, 140, 180, 220, 30]


def write_video(path, values=VALUES, rate=12.5, size=(32, 48)):
    writer = module.VideoWriter(path, rate)
    for value in values:
        writer.add(np.full((*size, 3), value, np.uint8))
    writer.close()
    return path


def means(results):
    return [result.json["mean"] for result in results]


class FakeCapture:
    """Stands for OpenCV's: pictures whose pixels are their number; None of them is a device that cannot be opened."""

    count = 10**9
    announced = 0
    opened: ClassVar[list] = []

    def __init__(self, source):
        self.source, self.read_so_far, self.released = source, 0, False
        FakeCapture.opened.append(self)

    def isOpened(self):
        return self.count is not None

    def read(self):
        if self.read_so_far >= self.count:
            return False, None
        self.read_so_far += 1
        return True, np.full((4, 6, 3), (self.read_so_far - 1) % 250, np.uint8)

    def get(self, what):
        return {cv2.CAP_PROP_FPS: 10.0, cv2.CAP_PROP_FRAME_COUNT: float(self.announced)}.get(what, 0.0)

    def set(self, what, value):
        return True

    def release(self):
        self.released = True


@pytest.fixture
def fake(monkeypatch):
    FakeCapture.opened = []
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    return FakeCapture


def test_frames_of_a_file_come_in_order_with_their_times(tmp_path):
    infer = brightness(batch_size=3)
    results = infer(write_video(tmp_path / "clip.mp4"))
    np.testing.assert_allclose(means(results), VALUES, atol=3)
    assert [result.frame for result in results] == list(range(7))
    np.testing.assert_allclose([result.seconds for result in results], np.arange(7) / 12.5, atol=1e-6)
    assert {(result.path, result.rate) for result in results} == {(str(tmp_path / "clip.mp4"), 12.5)}
    assert len(infer.model.task.traces) == 1
    assert all(result.image is None for result in results), "a list of results does not hold the video"
    np.testing.assert_allclose(results[4].pixels(), 180, atol=5)
    assert results[4].picture().shape == (4, 6, 3)
    with pytest.raises(VideoError, match="has no frame 7"):
        module.read_frame(Video(str(tmp_path / "clip.mp4")), 7)


def test_images_folders_arrays_and_videos_mix_in_a_list(tmp_path):
    clip = write_video(tmp_path / "some" / "b.mp4", [40, 80])
    write_image(tmp_path / "some" / "a.png", 10)
    infer = brightness()
    found = infer([np.full((3, 3), 7, np.uint8), tmp_path / "some", Video(str(clip), limit=1)])
    np.testing.assert_allclose(means(found), [7, 10, 40, 80, 40], atol=3)
    assert [result.frame for result in found] == [None, None, 0, 1, 0]
    assert len(infer(str(tmp_path / "some" / "*"))) == 3
    assert expand(str(tmp_path / "some"))[0] == [str(tmp_path / "some" / "a.png")], "features come from images alone"


def test_the_length_of_what_a_command_line_names_is_known(tmp_path):
    clip, left = str(write_video(tmp_path / "clip.mp4")), []
    write_image(tmp_path / "a.png", 10)
    assert listed([str(tmp_path), clip], left, skip=False) == ([str(tmp_path / "a.png"), Video(clip), Video(clip)], 15)
    assert listed([clip, "7", "missing"], left, skip=True, limit=3) == ([Video(clip, 3), Camera(7, 3)], 6)
    assert listed(["7", clip], left, skip=False)[1] is None and [name for name, _ in left] == ["missing"]
    with pytest.raises(SetupError, match="max_frames is 0"):
        listed([clip], left, skip=False, limit=0)


def test_a_long_video_is_read_as_it_is_consumed(fake, tmp_path):
    (tmp_path / "long.mp4").touch()
    results = brightness(batch_size=4).iterate(tmp_path / "long.mp4")
    for count in range(1, 60):
        assert next(results).frame == count - 1
        assert fake.opened[0].read_so_far - count <= 8, "two batches ahead at most"
    results.close()
    assert fake.opened[0].released


def test_a_camera_gives_each_result_at_once(fake):
    infer = brightness(batch_size=4)
    results = infer.iterate(0)
    for count in range(1, 6):
        result = next(results)
        assert (result.frame, result.source, result.path) == (count - 1, "camera 0", None)
        assert fake.opened[0].read_so_far == count and result.pixels()[0, 0, 0] == count - 1
    results.close()
    assert fake.opened[0].released and fake.opened[0].source == 0
    assert infer(0).json["mean"] == 0.0 and len(infer([0, 1])) == 2, "a call takes one picture"
    assert len(list(infer.iterate(Camera(3, limit=5)))) == 5 and fake.opened[-1].source == 3
    assert len(infer.model.task.traces) == 1


def test_missing_cameras_and_broken_files_are_told(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(fake, "count", None)
    with pytest.raises(VideoError, match=r"cannot open camera 5: no such camera, or another program .*this machine"):
        brightness()(5)
    monkeypatch.setattr(fake, "count", 3)
    with pytest.raises(VideoError, match="camera 0 gave no more pictures after 3"):
        list(brightness().iterate(0))
    (tmp_path / "short.mp4").touch()
    monkeypatch.setattr(fake, "announced", 8)
    with pytest.warns(UserWarning, match=r"short\.mp4' ended after 3 of 8 frames"):
        assert len(brightness()(tmp_path / "short.mp4")) == 3
    monkeypatch.setattr(fake, "count", 0)
    with pytest.raises(VideoError, match=r"cannot decode .*short\.mp4"):
        brightness()(tmp_path / "short.mp4")


def test_files_that_are_no_videos_are_told(tmp_path, capfd):
    for name, content, message in (("a.mp4", b"none", "damaged, no video, or its codec"), ("b.avi", b"", "is empty")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=message):
            brightness()(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such image or video file"):
        brightness()(tmp_path / "missing.mp4")
    with pytest.raises(VideoError, match="there is no such file"):
        brightness()(Video("missing.mp4"))
    assert capfd.readouterr().err == "", "the libraries' own lines are kept away"


def test_pictures_are_fitted_to_the_first_of_a_video(tmp_path):
    picture = np.full((10, 20, 3), 7, np.uint8)
    same = module.fitted(picture, (10, 20))
    wider = module.fitted(picture, (12, 20))
    smaller = module.fitted(picture, (10, 10))
    assert same is picture and (wider[:10] == 7).all() and (wider[10:] == 255).all()
    assert smaller.shape == (10, 10, 3) and (smaller[:5] == 7).all() and (smaller[5:] == 255).all()
    writer = module.VideoWriter(tmp_path / "odd.mp4", 25)
    for shape in ((5, 7, 3), (9, 9, 3)):
        writer.add(np.zeros(shape, np.uint8))
    writer.close()
    (first, second) = module.frames(Video(str(tmp_path / "odd.mp4")))
    assert first.image.shape == second.image.shape == (6, 8, 3)


def test_each_video_is_annotated_at_its_own_rate(tmp_path):
    infer = brightness()
    clips = [write_video(tmp_path / folder / "clip.mp4", [10, 20], rate) for folder, rate in (("a", 10), ("b", 30))]
    with Saver(tmp_path / "out", infer.model.task) as saver:
        rows = [saver.add(result) for result in infer.iterate([*clips, clips[0]])]
    assert [row["frame"] for row in rows] == [0, 1] * 3 and saver.written == ["predictions.json", "3 videos"]
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == rows
    names = ["clip_prediction.mp4", "clip_2_prediction.mp4", "clip_3_prediction.mp4"]
    assert [row["picture"] for row in rows[::2]] == names
    told = [module.about(Video(str(tmp_path / "out" / name))) for name in names]
    assert [(one.rate, one.frames) for one in told] == [(10, 2), (30, 2), (10, 2)]


def test_the_command_takes_videos_and_cameras(tmp_path, capsys, monkeypatch):
    write_run(tmp_path / "run")
    clip = write_video(tmp_path / "clip.mp4")
    picture = write_image(tmp_path / "a.png", 10)
    given = ("--config", tmp_path / "run", "--output", tmp_path / "out", "--max-frames", 3, "--input")
    assert run_command(*given, clip, picture) == 0
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(row.get("frame"), row["picture"]) for row in rows] == [
        *((i, "clip_prediction.mp4") for i in range(3)),
        (None, "a_prediction.png"),
    ]
    assert module.about(Video(str(tmp_path / "out" / "clip_prediction.mp4"))) == module.About(12.5, 3)
    assert f"{clip}: 12.5 frames per second" in capsys.readouterr().out
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    assert run_command(*given, 0, "--no-pictures") == 0
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(row["file"], row["frame"], "picture" in row) for row in rows] == [("camera 0", i, False) for i in range(3)]


def test_an_interrupted_command_keeps_what_it_has(tmp_path, capsys, fake, monkeypatch):
    write_run(tmp_path / "run")

    def read(self):
        self.read_so_far += 1
        if self.read_so_far == 4:
            raise KeyboardInterrupt
        return True, np.zeros((4, 6, 3), np.uint8)

    monkeypatch.setattr(fake, "read", read)
    given = ("--config", tmp_path / "run", "--output", tmp_path / "out", "--no-pictures")
    assert run_command(*given, "--input", 0) == 0, "the usual end of a camera"
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 3
    (tmp_path / "long.mp4").touch()
    assert run_command(*given, "--input", tmp_path / "long.mp4") == 130
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert "wrote predictions.json, classes.csv to" in capsys.readouterr().out
