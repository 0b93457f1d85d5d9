"""The viewer without a browser: what clients may say, what is painted, how the server holds out."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fieldpress.scenes.metrics import psnr
from fieldpress.scenes.orbit import orbit
from fieldpress.viewer.exhibit import Exhibit, Exhibition, Knob, Photos, Shown
from fieldpress.viewer.heat import HEAT, heat_map
from fieldpress.viewer.messages import Cancel, View, WantPhoto, WantVideo, parse
from fieldpress.viewer.painter import Painter
from fieldpress.viewer.rate import Buckets
from fieldpress.viewer.server import MAX_CLIENTS, MESSAGES, Server, is_loopback, page
from fieldpress.viewer.session import LEAST_SCALE, MOVING_SECONDS, WORTHWHILE, Scale
from fieldpress.viewing import rendered

IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3]
SIZE = 96, 64


def rays(cameras) -> torch.Tensor:
    """[C, H, W, 3], a colour for every direction: any wrong crop or size shows."""
    pictures = []
    for viewmat, K in zip(cameras.viewmats, cameras.Ks, strict=True):
        x = (torch.arange(cameras.width) + 0.5 - K[0, 2]) / K[0, 0]
        y = (torch.arange(cameras.height) + 0.5 - K[1, 2]) / K[1, 1]
        grid = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(len(y), len(x))], -1)
        direction = torch.nn.functional.normalize(grid, dim=-1) @ viewmat[:3, :3]
        pictures.append(0.5 + 0.5 * torch.sin(3 * direction + viewmat[:3, 3]))
    return torch.stack(pictures)


def knobbed(values, background) -> Shown:
    return Shown(lambda c: (rays(c) * values["gain"]).clamp(0, 1), {"gain": values["gain"]})


@pytest.fixture
def show() -> Exhibition:
    cameras = orbit((0, 0, 0), 3, 4, width=60, height=40)
    photos = Photos(cameras, ("a", "b", "c", "d"), lambda i: rays(cameras[i : i + 1])[0])
    knob = Knob("gain", "gain", 0, 1, 0.1, 0.9)
    return Exhibition(
        title="rays <&>",
        exhibits=(rendered("plain", rays, {"Gaussians": 7}), Exhibit("dim", knobbed, (knob,))),
        home=cameras[:1],
        target=(0.0, 0.0, 0.0),
        up=(0.0, -1.0, 0.0),
        radius=3.0,
        photos=photos,
    )


def wish(**changes: Any) -> dict[str, Any]:
    asked = {
        "type": "view", "seq": 1, "pose": IDENTITY, "fov": 1.0, "size": list(SIZE),
        "left": {"exhibit": 0}, "right": {"exhibit": 1}, "mode": "swipe", "swipe": 0.5,
        "error": False, "gain": 8, "background": [0, 0, 0], "moving": False, "photo": None,
        "time": 0,
    }  # fmt: skip
    return asked | changes


def ask(show: Exhibition, **changes: Any) -> View:
    found = parse(json.dumps(wish(**changes)), show)
    assert isinstance(found, View)
    return found


# Messages


def test_a_view_is_what_was_asked_for(show):
    view = ask(show, right={"exhibit": 1, "knobs": {"gain": 0.5}}, photo=2)
    assert (view.width, view.height, view.photo, view.mode) == (*SIZE, 2, "swipe")
    assert view.right.knobs == (("gain", 0.5),)
    assert ask(show).right.knobs == (("gain", 0.9),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "object"),
        (b"\x00", "text"),
        ('{"type": []}', "type"),
        ('{"type": "open", "path": "/etc/passwd"}', "type"),
        ('{"type": "photo", "index": "../../etc/passwd"}', "index"),
        ('{"type": "photo", "index": 4}', "index"),
        ('{"type": "photo", "index": 1.5}', "index"),
        (json.dumps(wish(pose=[1] * 12)), "rotation"),
        (json.dumps(wish(pose=IDENTITY[:11])), "pose"),
        (json.dumps(wish(pose=[*IDENTITY[:11], math.nan])), "pose"),
        (json.dumps(wish(pose=[*IDENTITY[:11], 1e30])), "pose"),
        (json.dumps(wish(pose=[-1, *IDENTITY[1:]])), "rotation"),
        (json.dumps(wish(size=[1e9, 1e9])), "size"),
        (json.dumps(wish(size=[64, True])), "size"),
        (json.dumps(wish(fov=0)), "fov"),
        (json.dumps(wish(mode="x" * 10_000)), "mode"),
        (json.dumps(wish(left={"exhibit": 2})), "exhibit"),
        (json.dumps(wish(left={"exhibit": -1})), "left"),
        (json.dumps(wish(left={"exhibit": 1, "knobs": {"nope": 1}})), "knobs"),
        (json.dumps(wish(left={"exhibit": 1, "knobs": {"gain": 2}})), "gain"),
        (json.dumps(wish(type="video", path=[], fps=30)), "path"),
        (json.dumps(wish(type="video", path=[{}] * 4000, fps=30)), "path"),
        (json.dumps(wish(type="video", path=[[]], fps=30)), "path"),
        (json.dumps(wish(type="video", path=[{}], fps=0)), "fps"),
    ],
)
def test_nonsense_is_refused_in_one_short_line(show, text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse(text, show)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_other_messages(show):
    assert parse('{"type": "photo", "index": 3}', show) == WantPhoto(3)
    assert parse('{"type": "cancel"}', show) == Cancel()
    steps = [{"pose": IDENTITY, "fov": 0.5, "time": 0}, {"pose": IDENTITY, "fov": 0.7, "time": 0}]
    video = parse(json.dumps(wish(type="video", path=steps, fps=30)), show)
    assert isinstance(video, WantVideo)
    assert [view.fov for view in video.views] == [0.5, 0.7]
    none = replace(show, photos=None)
    with pytest.raises(ValueError, match="no photographs"):
        parse('{"type": "photo", "index": 0}', none)


# Pictures


def whole(show: Exhibition, view: View, gain: float = 1.0) -> torch.Tensor:
    return rays(Painter(show).camera(view))[0] * gain


def test_sides_are_what_the_renderers_say(show):
    frame = Painter(show).frame(ask(show))
    left, right = (part.pixels.float() / 255 for part in frame.parts)
    truth = whole(show, ask(show))
    assert float((left - truth).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((right - 0.9 * truth).abs().max()) <= 0.5 / 255 + 1e-6
    assert frame.psnr == pytest.approx(float(psnr(0.9 * truth, truth)), abs=1e-3)
    assert frame.facts == {"left": {"Gaussians": 7}, "right": {"gain": 0.9}}


@pytest.mark.parametrize("swipe", [0.0, 0.3, 1.0])
def test_a_moving_swipe_renders_each_side_to_the_line(show, swipe):
    frame = Painter(show).frame(ask(show, moving=True, swipe=swipe))
    left, right = frame.parts
    assert (left.x0, right.x1, left.x1) == (0, SIZE[0], right.x0)
    assert 0 < left.x1 < SIZE[0]
    truth = whole(show, ask(show))
    joined = torch.cat([left.pixels.float(), right.pixels.float()], 1) / 255
    expected = torch.cat([truth[:, : left.x1], 0.9 * truth[:, left.x1 :]], 1)
    assert float((joined - expected).abs().max()) <= 0.5 / 255 + 1e-5
    assert frame.psnr is None


def test_error_is_black_where_there_is_none(show):
    same = Painter(show).frame(ask(show, error=True, right={"exhibit": 0}))
    assert int(same.parts[1].pixels.max()) == round(255 * 0.02)
    assert same.psnr == 100
    other = Painter(show).frame(ask(show, error=True))
    truth = whole(show, ask(show))
    expected = (heat_map(0.9 * truth, truth, 8) * 255).round()
    assert float((other.parts[1].pixels.float() - expected).abs().max()) <= 1


def test_heat_runs_through_its_colours():
    error = torch.linspace(0, 1, 6)[None, :, None].expand(1, 6, 3)
    assert torch.allclose(
        heat_map(error, torch.zeros(1, 6, 3), 1)[0], torch.tensor(HEAT), atol=4e-3
    )


def test_the_photograph_has_its_own_camera(show):
    view = ask(show, photo=2, left={"exhibit": -1}, right={"exhibit": 0}, size=[120, 80])
    frame = Painter(show).frame(view)
    assert (frame.width, frame.height) == (120, 80)
    assert frame.psnr is not None
    assert frame.psnr > 35  # Both are the same rays; the photograph was enlarged.


def test_side_by_side_halves_the_width(show):
    composed = Painter(show).composed(ask(show, mode="side"))
    assert composed.shape == (SIZE[1], 2 * ((SIZE[0] - 2) // 2) + 2, 3)


def test_a_composed_swipe_has_both_sides(show):
    composed = Painter(show).composed(ask(show, swipe=0.25)).float() / 255
    truth = whole(show, ask(show))
    assert torch.allclose(composed[:, :20], truth[:, :20], atol=3e-3)
    assert torch.allclose(composed[:, 30:], 0.9 * truth[:, 30:], atol=3e-3)


@pytest.mark.parametrize(
    ("render", "pixels"), [(0, 0.004), (0, 0.3), (0.02, 0.2), (0.1, 0.4), (0.045, 0.06)]
)
def test_the_scale_settles_where_a_frame_takes_its_time(render, pixels):
    """The largest scale that is fast enough, after a few seconds of motion and rest.

    Where even no pixels are too slow, pixels get a share of the time: fewer would not help.
    """
    scale, full = Scale(), 0.9
    for number in range(100):
        area = full if number % 20 == 0 else full * scale.choose((1, full)) ** 2
        scale.learn((1, area), render + pixels * area)
    spare = max(MOVING_SECONDS - render, WORTHWHILE * render)
    expected = min(max((spare / (pixels * full)) ** 0.5, LEAST_SCALE), 1.0)
    assert scale.choose((1, full)) == pytest.approx(expected, rel=0.25)


def test_a_moving_scene_gets_the_time(show):
    def blink(cameras) -> torch.Tensor:
        return torch.full((1, cameras.height, cameras.width, 3), float(cameras.times[0]))

    film = replace(show, exhibits=(rendered("film", blink),) * 2, duration=1.0, photos=None)
    frame = Painter(film).frame(ask(film, right={"exhibit": 0}, time=0.5))
    assert int(frame.parts[0].pixels.min()) == int(frame.parts[0].pixels.max()) == 128
    with pytest.raises(ValueError, match="time: expected 0 to 1"):
        ask(film, right={"exhibit": 0}, time=1.5)


# The server


def address(server: Server) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.split(":")[2].split("/")[0])


def raw(server: Server, request: bytes) -> bytes:
    """All bytes that a plain socket gets for an answer."""
    with socket.create_connection(address(server), timeout=5) as connection:
        connection.sendall(request)
        if not request.startswith(b"GET"):
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def get(server: Server, path: str, **headers: str) -> bytes:
    fields = {"Host": "localhost:1", **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{key}: {value}" for key, value in fields.items())]
    return raw(server, "\r\n".join([*lines, "", ""]).encode())


def connect(server: Server, **options: Any) -> Any:
    from websockets.sync.client import connect as open_socket

    query = "?" + server.url.partition("?")[2]
    host, port = address(server)
    return open_socket(f"ws://{host}:{port}/ws{query}", max_size=None, **options)


def next_frame(client: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
    import io

    from PIL import Image

    while isinstance(data := client.recv(timeout=10), str):
        pass
    size = struct.unpack("<I", data[:4])[0]
    header, at = json.loads(data[4 : 4 + size]), 4 + size
    pictures = []
    for part in header.get("parts", ()):
        pictures.append(np.asarray(Image.open(io.BytesIO(data[at : at + part["bytes"]]))))
        at += part["bytes"]
    return header, pictures


def look(client: Any, **changes: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
    client.send(json.dumps(wish(**changes)))
    return next_frame(client)


def test_a_client_gets_the_pictures(serving, show):
    with serving(show) as (server, lines), connect(server) as client:
        hello = json.loads(client.recv(timeout=10))
        assert [one["name"] for one in hello["exhibits"]] == ["plain", "dim"]
        assert len(hello["photos"]) == 4
        header, (left, right) = look(client, seq=5)
        truth = (whole(show, ask(show)) * 255).numpy()
        assert header["seq"] == 5
        assert float(np.abs(left - truth).mean()) < 2
        assert float(np.abs(right - 0.9 * truth).mean()) < 2
        client.send('{"type": "photo", "index": 1}')
        assert next_frame(client)[0] == {"type": "photo", "index": 1}
        assert lines == []


def test_two_clients_and_one_that_drops_in_mid_frame(serving, show):
    with serving(show) as (server, lines), connect(server) as one, connect(server) as two:
        third = connect(server)
        third.send(json.dumps(wish(size=[1600, 1600])))
        third.socket.shutdown(socket.SHUT_RDWR)  # No farewell, while its picture is being painted.
        assert look(one, seq=8)[0]["seq"] == 8
        assert look(two, seq=9, mode="one")[0]["seq"] == 9
        for client in (one, two):
            client.close()
    assert len([line for line in lines if "went away" in line]) == 1
    assert len(lines) == 1


def test_malformed_messages_cost_a_line_each(serving, show):
    with serving(show) as (server, lines), connect(server) as client:
        for text in ("{", '{"type": "open", "path": "../../etc/passwd\\n"}', b"\xff"):
            client.send(text)
        assert look(client, seq=3)[0]["seq"] == 3
        assert len(lines) == 3
        assert all(line.startswith("refused a message: ") for line in lines)
        assert not any("\n" in line for line in lines)
        with connect(server) as big:
            big.send("x" * (2 << 20))
            with pytest.raises(Exception, match=r"1009|too big"):
                [big.recv(timeout=10) for _ in range(3)]
        assert look(client, seq=4)[0]["seq"] == 4
    assert len(lines) == 4


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/../../etc/passwd", "/%2e%2e/etc/passwd", "/view.js", "//etc/passwd", "/ws/..",
     "http://localhost/etc/passwd", "/\x7f\x1b[31m"],
)  # fmt: skip
def test_hostile_paths_get_nothing(serving, show, path):
    with serving(show) as (server, lines):
        answer = get(server, path)
        assert b"200" not in answer.split(b"\r\n")[0]
        assert b"root:" not in answer
        assert b"200 OK" in get(server, "/")
    assert len(lines) == 1
    assert lines[0].isprintable()


@pytest.mark.parametrize("request_bytes", [b"\x00\xff\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b""])
def test_what_is_no_http_costs_at_most_a_line(serving, show, request_bytes):
    with serving(show) as (server, lines):
        raw(server, request_bytes)
        assert b"200 OK" in get(server, "/")
    assert len(lines) <= 1


def test_other_origins_and_hosts_are_refused(serving, show):
    from websockets.exceptions import InvalidStatus

    with serving(show) as (server, lines):
        assert b"403" in get(server, "/", Host="evil.example:80").split(b"\r\n")[0]
        with pytest.raises(InvalidStatus, match="403"):
            connect(server, origin="http://evil.example")
        host, port = address(server)
        with connect(server, origin=f"http://{host}:{port}") as client:
            assert json.loads(client.recv(timeout=10))["type"] == "hello"
    assert len(lines) == 2


def test_a_token_is_asked_for_beyond_this_machine(serving, show):
    from websockets.exceptions import InvalidStatus

    with serving(show, host="0.0.0.0") as (server, lines):
        assert "token=" in server.url
        assert b"403" in get(server, "/").split(b"\r\n")[0]
        assert b"403" in get(server, "/?token=wrong").split(b"\r\n")[0]
        assert b"200" in get(server, "/?" + server.url.partition("?")[2]).split(b"\r\n")[0]
        from websockets.sync.client import connect as open_socket

        with pytest.raises(InvalidStatus, match="403"):
            open_socket("ws://{}:{}/ws".format(*address(server)))
        with connect(server) as client:
            assert look(client)[0]["type"] == "frame"
    assert len(lines) == 3


def test_clients_are_counted(serving, show):
    from websockets.exceptions import InvalidStatus

    with serving(show) as (server, _):
        clients = [connect(server) for _ in range(MAX_CLIENTS)]
        with pytest.raises(InvalidStatus, match="503"):
            connect(server)
        clients.pop().close()
        for client in clients:
            client.close()


def test_guessing_a_token_ends_soon(serving, show):
    with serving(show, host="0.0.0.0") as (server, lines):
        token = "/?" + server.url.partition("?")[2]
        assert b"200" in get(server, token).split(b"\r\n")[0]
        answers = [get(server, f"/?token={i}").split(b"\r\n")[0] for i in range(13)]
        assert all(b"403" in answer for answer in answers[:10])
        assert b"429" in answers[-1]
        assert b"429" in get(server, token).split(b"\r\n")[0]  # Not even the right one now.
    assert len(lines) == 14


def test_a_client_that_sends_too_much_is_let_go(serving, show):
    from websockets.exceptions import ConnectionClosed

    def flood(client: Any) -> None:
        for _ in range(20 * int(MESSAGES[1])):
            client.send('{"type": "cancel"}')
        while True:
            client.recv(timeout=10)

    with serving(show) as (server, lines), connect(server) as client, connect(server) as other:
        with pytest.raises(ConnectionClosed, match="1008"):
            flood(client)
        assert look(other)[0]["type"] == "frame"
    assert lines[0] == "a client sent too much"


def test_buckets_fill_with_time_and_forget_the_oldest():
    now = [0.0]
    buckets = Buckets(2.0, 3.0, 2, lambda: now[0])
    assert [buckets.of("a").take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5
    assert [buckets.of("a").take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [buckets.of("a").take() for _ in range(4)] == [True, True, True, False]
    buckets.of("b").take()
    buckets.of("c")
    assert len(buckets) == 2
    assert not buckets.of("a").empty  # It was forgotten.


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("cannot\nrender"), "cannot render"), (KeyError("a bug"), "KeyError: 'a bug'")],
)
def test_a_renderer_that_fails_does_not_end_the_session(serving, show, error, line):
    def broken(cameras) -> torch.Tensor:
        raise error

    bad = replace(show, exhibits=(show.exhibits[0], rendered("broken", broken)))
    with serving(bad) as (server, lines), connect(server) as client:
        client.send(json.dumps(wish()))
        messages = [json.loads(client.recv(timeout=10)) for _ in range(2)]
        assert messages[1] == {"type": "problem", "text": line}
        assert look(client, mode="one", seq=2)[0]["seq"] == 2
    assert lines == [f"cannot paint: {line}"]


def test_one_can_look_around_while_a_video_is_made(serving, show):
    pytest.importorskip("av", reason="PyAV is not installed")
    path = [{"pose": IDENTITY, "fov": 0.5, "time": 0}] * 3600
    with serving(show) as (server, lines), connect(server) as client:
        client.send(json.dumps(wish(type="video", path=path, fps=30)))
        assert look(client, seq=7)[0]["seq"] == 7
        client.send(json.dumps(wish(type="video", path=path, fps=30)))
        client.send('{"type": "cancel"}')
        texts = []
        while '"cancelled": true' not in "".join(texts):
            data = client.recv(timeout=20)
            texts += [data] if isinstance(data, str) else []
    assert lines == ["cannot paint: a video is being made; cancel it first"]


def test_a_video_along_a_path(serving, show):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    import io

    steps = [{"pose": IDENTITY, "fov": 0.5 + 0.02 * i, "time": 0} for i in range(12)]
    with serving(show) as (server, _), connect(server) as client:
        client.send(json.dumps(wish(type="video", path=steps, fps=24)))
        header = {}
        while header.get("type") != "file":
            data = client.recv(timeout=20)
            if isinstance(data, bytes):
                size = struct.unpack("<I", data[:4])[0]
                header, body = json.loads(data[4 : 4 + size]), data[4 + size :]
    with av.open(io.BytesIO(body)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 12
    last = ask(show, fov=0.72)
    expected = Painter(show).composed(last).float() / 255
    found = torch.from_numpy(frames[-1]).float() / 255
    assert float(psnr(found, expected)) > 25  # 4:2:0 and H.264 of a small picture.


def test_loopback_is_known():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))


def test_the_page_escapes_its_title_and_loads_nothing():
    text = page("rays <&>")
    assert "rays &lt;&amp;&gt;" in text
    assert "http://" not in text
    assert "https://" not in text


def test_a_taken_port_is_one_line(show):
    pytest.importorskip("websockets", reason="the viewer's extra is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1:{port}: cannot listen"):
            asyncio.run(Server(show, port=port).run())
