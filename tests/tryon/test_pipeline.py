"""The pipeline is stock Wan-VACE where it must be; long clips are one clip, and a stopped one goes on."""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from noria.core.errors import ConfigError, DataError, ModelError  # noqa: E402
from noria.tryon.actions.reading import Action  # noqa: E402
from noria.tryon.hands.rendering import render  # noqa: E402
from noria.tryon.hands.synthetic import hand  # noqa: E402
from noria.tryon.hands.track import HandTrack  # noqa: E402
from noria.tryon.pipeline.book import ChunkSegments, make_book  # noqa: E402
from noria.tryon.pipeline.captions import encode_texts, pack_actions  # noqa: E402
from noria.tryon.pipeline.chunks import ChunkStore  # noqa: E402
from noria.tryon.pipeline.conditions import Conditions, decode, hand_latents  # noqa: E402
from noria.tryon.pipeline.estimate import estimate, fitting  # noqa: E402
from noria.tryon.pipeline.loading import open_pipeline, tiny_pipeline  # noqa: E402
from noria.tryon.pipeline.long import Order, dress, order_key, padded_times  # noqa: E402
from noria.tryon.pipeline.settings import SamplingConfig  # noqa: E402
from noria.tryon.video.clips import Clip  # noqa: E402

FAST = SamplingConfig(steps=2, guidance=1, chunk_frames=17, chunk_overlap=5, feather=0)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    made = tiny_pipeline()
    made.set_progress_bar_config(disable=True)
    for name, value in made.transformer.named_parameters():
        if name.endswith("action_gate"):
            torch.nn.init.ones_(value)
        if name.startswith("guider.project"):
            torch.nn.init.normal_(value, std=0.5, generator=torch.Generator().manual_seed(0))
    return made


def level(pictures: Any) -> Any:
    """Values that bytes have, so that PIL loses nothing."""
    return (pictures * 127.5 + 127.5).round() / 127.5 - 1


def conditions(batch: int = 1, frames: int = 9, **more: Any) -> Conditions:
    draw = torch.Generator().manual_seed(1)
    video = level(torch.rand(batch, 3, frames, 32, 48, generator=draw) * 2 - 1)
    mask = (torch.rand(batch, 1, frames, 32, 48, generator=draw) > 0.5).float()
    garments = [[level(torch.rand(3, 40, 30, generator=draw) * 2 - 1)] for _ in range(batch)]
    return Conditions(video, mask, garments, [f"clip {n}" for n in range(batch)], **more)


def noise(seed: int = 0, batch: int = 1, frames: int = 4) -> Any:
    return torch.randn(batch, 16, frames, 4, 6, generator=torch.Generator().manual_seed(seed))


def pil(tensor: Any) -> Any:
    from PIL import Image

    return Image.fromarray(((tensor.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy())


def test_without_actions_and_hands_it_is_the_stock_pipeline(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers.pipelines.wan.pipeline_wan_vace as stock_module
    from diffusers import WanVACEPipeline
    from PIL import Image

    clean = types.SimpleNamespace(fix_text=lambda text: text)  # what ftfy does to clean text
    monkeypatch.setattr(stock_module, "ftfy", clean, raising=False)
    stock, given = WanVACEPipeline(**pipeline.components), conditions()
    stock.set_progress_bar_config(disable=True)
    masks = [Image.fromarray((frame * 255).byte().numpy()) for frame in given.mask[0, 0]]
    expected = stock(
        "clip 0",
        "bad",
        [pil(frame) for frame in given.video[0].unbind(1)],
        masks,
        [pil(given.garments[0][0])],
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames
    ours = pipeline(
        given, SamplingConfig(steps=3, negative="bad"), generator=torch.Generator().manual_seed(0)
    )
    assert torch.allclose(ours.transpose(1, 2) / 2 + 0.5, expected, atol=1e-5)


def test_a_batch_equals_its_clips(pipeline: Any) -> None:
    books = [
        make_book([Action(0.1, 0.4, text)], [f / 16 for f in range(9)], 9 / 16)
        for text in ("zip", "lifts it")
    ]
    segments = [book.chunk(0, 3, "anchored") for book in books]
    both = conditions(2, segments=segments)
    whole = pipeline(both, SamplingConfig(steps=2, action_guidance=2.0), latents=noise(batch=2))
    for n in range(2):
        one = Conditions(
            both.video[n : n + 1], both.mask[n : n + 1], [both.garments[n]], [both.prompts[n]], [segments[n]]
        )
        alone = pipeline(one, SamplingConfig(steps=2, action_guidance=2.0), latents=noise(batch=2)[n : n + 1])
        assert torch.allclose(whole[n], alone[0], atol=1e-4)


def test_guidance_on_actions_is_linear_apart_from_the_caption(pipeline: Any) -> None:
    book = make_book([Action(0.1, 0.4, "unzips")], [f / 16 for f in range(9)], 9 / 16)
    given = conditions(segments=[book.chunk(0, 3, "anchored")])

    def result(weight: float | None, actions: bool = True) -> Any:
        chosen = given if actions else conditions()
        return pipeline(chosen, SamplingConfig(steps=1, guidance=3, action_guidance=weight), latents=noise())

    assert torch.allclose(result(0.0), result(None, actions=False), atol=1e-5)
    assert not torch.allclose(result(2.0), result(0.0), atol=1e-4)
    # one weight for both is the same as that weight on each
    assert torch.allclose(result(3.0), result(None), atol=1e-4)


def test_hands_change_a_result_and_scale_zero_does_not(pipeline: Any) -> None:
    hands = torch.full((1, 3, 9, 32, 48), -1.0)
    hands[..., 8:16, 8:16] = 0.5
    given = conditions(hands=hands, hands_where=hands[:, 0] > 0)
    off = pipeline(given, FAST.model_copy(update={"hand_scale": 0.0}), latents=noise())
    assert torch.equal(off, pipeline(conditions(), FAST, latents=noise()))
    assert not torch.allclose(pipeline(given, FAST, latents=noise()), off, atol=1e-4)
    seen = hand_latents(pipeline.vae, hands, given.hands_where)[:, 16:]
    assert seen.shape == (1, 1, 3, 4, 6)
    assert seen.sum() == 3
    assert bool((seen[0, 0, :, 1, 1] == 1).all())


def test_sizes_that_do_not_agree_are_an_error() -> None:
    given = conditions()
    with pytest.raises(ValueError, match="mask"):
        Conditions(given.video, given.mask[..., :16], given.garments, given.prompts)
    with pytest.raises(ValueError, match="multiples of 16"):
        Conditions(given.video[..., :40], given.mask[..., :40], given.garments, given.prompts)


def test_captions_are_encoded_alone_and_packed_by_position(pipeline: Any) -> None:
    alone = encode_texts(pipeline.tokenizer, pipeline.text_encoder, ["zip"])[0]
    together = encode_texts(pipeline.tokenizer, pipeline.text_encoder, ["zip", "a much longer caption"])[0]
    assert alone.shape == together.shape
    assert torch.allclose(alone, together, atol=1e-5)
    book = make_book([Action(0.1, 0.3, "a"), Action(0.3, 0.6, "b")], [f / 16 for f in range(13)], 13 / 16)
    clip = book.chunk(0, 4, "anchored")
    idle = ChunkSegments(torch.zeros(4, dtype=torch.long), (), ())
    packed = pack_actions([[alone, together[:2]], []], [clip, idle], 1, None)
    assert packed is not None
    assert packed.keys[0].tolist() == [clip.keys[0]] * len(alone) + [clip.keys[1]] * 2
    assert not packed.mask[1].any()
    assert packed.queries[0, 0] == 0
    assert packed.queries.shape == (2, 5)


@pytest.mark.parametrize("index", ["anchored", "paper"])
def test_chunks_read_one_book(index: str) -> None:
    times = [f / 16 for f in range(41)]
    actions = [Action(0.2, 0.9, "first"), Action(1.0, 1.8, "second"), Action(1.9, 2.3, "third")]
    book = make_book(actions, times, 41 / 16)
    part = book.chunk(4, 7, index)
    texts = dict(zip(part.keys, part.captions, strict=True))
    for place, n in enumerate(book.table[4:11].tolist()):
        if n:
            assert texts[int(part.queries[place])] == actions[n - 1].caption
    assert book.chunk(0, 1, index).captions == ()


def test_actions_that_do_not_fit_the_clip_are_refused_or_cut() -> None:
    times = [f / 16 for f in range(17)]
    with pytest.raises(DataError, match=r"action 2.*starts at 5\.00 s"):
        make_book([Action(0, 0.5, "a"), Action(5, 6, "b")], times, 17 / 16)
    with pytest.warns(UserWarning, match="cut"):
        make_book([Action(0.5, 6, "b")], times, 17 / 16)
    with pytest.warns(UserWarning, match="overlap"):
        make_book([Action(0, 0.5, "a"), Action(0.3, 0.9, "b")], times, 17 / 16)
    warnings.simplefilter("ignore")  # that they overlap
    with pytest.raises(DataError, match="nothing is left"):
        make_book([Action(0.01, 1.0, "x")] * 50, times, 17 / 16)


def order(frames: int = 30, **more: Any) -> Order:
    draw = np.random.default_rng(0)
    clip = Clip(
        draw.integers(0, 256, (frames, 40, 56, 3), dtype=np.uint8),
        np.arange(frames) / 16,
        frames / 16,
        Path("c"),
    )
    mask = torch.zeros(frames, 40, 56, dtype=torch.bool)
    mask[:, 10:30, 12:36] = True
    return Order(clip, mask, [draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)], **more)


def test_a_long_clip_keeps_its_frames_its_size_and_every_byte_outside(pipeline: Any) -> None:
    given = order(actions=[Action(0.3, 0.8, "lifts")])
    result = dress(pipeline, given, FAST)
    assert result.frames.shape == given.clip.frames.shape
    outside = ~given.mask.numpy()
    assert np.array_equal(result.frames[outside], given.clip.frames[outside])
    assert not np.array_equal(result.frames, given.clip.frames)
    assert result.starts == [0, 8, 16]
    assert len(result.drift) == 2
    assert np.isfinite(result.drift).all()
    assert padded_times(given.clip, 33)[-1] > given.clip.seconds[-1]


def test_noise_of_a_chunk_depends_on_the_seed(pipeline: Any) -> None:
    results = [dress(pipeline, order(9), FAST, seed=seed).frames for seed in (0, 0, 1)]
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_a_stopped_clip_goes_on_at_its_chunk_and_ends_with_the_same_bytes(
    pipeline: Any, tmp_path: Path
) -> None:
    given = order(45)
    whole = dress(pipeline, given, FAST).frames
    key = order_key(given, FAST, 0, "m")

    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dress(pipeline, given, FAST, store=ChunkStore(tmp_path, key), on_step=stop)
    kept = list(tmp_path.glob("*/*.chunk"))
    assert len(kept) == 1
    again = dress(pipeline, given, FAST, store=ChunkStore(tmp_path, key))
    assert again.resumed == 1
    assert np.array_equal(again.frames, whole)
    raw = bytearray(kept[0].read_bytes())
    raw[-5] ^= 1
    kept[0].write_bytes(raw)  # a flipped bit: the chunk is made anew
    third = dress(pipeline, given, FAST, store=ChunkStore(tmp_path, key))
    assert third.resumed == len(third.starts) - 1
    assert np.array_equal(third.frames, whole)
    other = order_key(given, FAST.model_copy(update={"steps": 3}), 0, "m")
    assert other != key


def test_the_way_of_counting_is_the_models(pipeline: Any) -> None:
    from noria.tryon.pipeline.long import _conditions, plan

    given = order(actions=[Action(0.3, 0.8, "lifts"), Action(1.0, 1.5, "zips")])
    way, _, size, book = plan(given, FAST)
    queries = {}
    for index in ("anchored", "paper"):
        model = tiny_pipeline(arope_index=index)
        made = _conditions(model, given, way, book, (0, size), None, torch.zeros(3, 0, *way.canvas))
        assert made.segments is not None
        queries[index] = made.segments[0].queries.tolist()
    assert queries == {"anchored": [0, 0, 1, 1, 0], "paper": [0, 0, 1, 1, 2]}


def test_hands_are_drawn_where_the_crop_sees_them(pipeline: Any) -> None:
    joints = np.zeros((30, 2, 21, 3), np.float32)
    joints[:] = hand(np.array([0.0, 0.05, 0.5]))
    camera = np.array([[60.0, 0, 28], [0, 60, 20], [0, 0, 1]])
    track = HandTrack(joints, np.ones((30, 2), np.bool_), camera)
    from noria.tryon.hands.rendering import render
    from noria.tryon.pipeline.long import drawn_hands, plan

    given = order(hands=track)
    way = plan(given, FAST)[0]
    top, left, height, width = way.box
    whole = render(track, given.clip.size)[1][0, top : top + height, left : left + width]
    cropped = drawn_hands(given, way)[1][0].numpy()[: way.inner[0], : way.inner[1]]
    assert cropped.shape == whole.shape  # a small clip is not scaled
    assert np.array_equal(cropped, whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mask": torch.zeros(30, 40, 56, dtype=torch.bool)}, "empty"), ({"garments": []}, "garment")],
    ids=["mask", "garment"],
)
def test_orders_that_ask_for_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Order(**vars(order()) | change)


def test_an_estimate_grows_with_the_work_and_memory_is_kept(pipeline: Any) -> None:
    def cost(canvas: tuple[int, int], sampling: SamplingConfig) -> Any:
        return estimate(pipeline, canvas, sampling.chunk_frames, 1, 1, sampling, actions=True)

    small, large = cost((64, 64), FAST), cost((128, 128), FAST)
    assert large.tokens == 4 * small.tokens
    assert large.petaflop > 4 * small.petaflop
    assert cost((64, 64), SamplingConfig(steps=10, action_guidance=2, chunk_frames=17)).passes == 30
    bound = cost((64, 64), SamplingConfig(chunk_frames=17)).peak_gib * 1.01

    def of(sampling: SamplingConfig) -> Any:
        side = 16 * round(sampling.most_pixels**0.5 / 16)
        return cost((side, side), sampling)

    chosen = fitting(of, SamplingConfig(most_pixels=128 * 128), bound, 128 * 128)
    assert of(chosen).peak_gib <= bound
    with pytest.raises(ConfigError, match="fit"):
        fitting(of, SamplingConfig(), 1e-6, 128 * 128)


def test_real_sizes_are_those_of_the_field() -> None:
    from noria.tryon.pipeline.estimate import pass_flop

    config = types.SimpleNamespace(
        num_attention_heads=12,
        attention_head_dim=128,
        num_layers=30,
        vace_layers=range(0, 30, 2),
        ffn_dim=8960,
    )
    assert pass_flop(config, 38_016) == pytest.approx(0.56e15, rel=0.05)


def test_a_saved_pipeline_opens_again_and_another_family_does_not(pipeline: Any, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "m")
    again = open_pipeline(str(tmp_path / "m"))
    again.set_progress_bar_config(disable=True)
    results = [one(conditions(), FAST, latents=noise()) for one in (again, pipeline)]
    assert torch.allclose(*results, atol=1e-5)
    config = tmp_path / "m" / "transformer" / "config.json"
    config.write_text(config.read_text().replace("ITryOnTransformer3DModel", "FluxTransformer2DModel"))
    with pytest.raises(ModelError, match="Flux"):
        open_pipeline(str(tmp_path / "m"))
    with pytest.raises(ModelError, match="no such folder"):
        open_pipeline(str(tmp_path / "absent"))


@pytest.mark.parametrize("kind", ["offload", "tiling"])
def test_offload_and_tiling_change_no_bit(kind: str) -> None:
    def made() -> Any:
        pipe = tiny_pipeline()
        for name, value in pipe.transformer.named_parameters():
            if name.endswith("action_gate"):
                torch.nn.init.ones_(value)
            if name.startswith("guider.project"):
                torch.nn.init.normal_(value, std=0.5, generator=torch.Generator().manual_seed(0))
        return pipe

    joints = np.zeros((9, 2, 21, 3), np.float32)
    joints[:, 1] = hand(np.array([0.05, 0.1, 0.6]))
    camera = np.array([[50.0, 0, 24], [0, 50, 16], [0, 0, 1]])
    video, where = render(HandTrack(joints, np.tile([False, True], (9, 1)), camera), (32, 48))
    hands = {
        "hands": torch.from_numpy(video).transpose(0, 1)[None],
        "hands_where": torch.from_numpy(where).float()[None],
    }
    segments = [ChunkSegments(torch.tensor([0, 1, 1]), ("lifts the hem",), (1,))]
    given = conditions(segments=segments, **hands)
    plain = made()(given, FAST, latents=noise())
    pipe = made()
    assert not torch.equal(
        plain, pipe(conditions(segments=segments), FAST, latents=noise())
    )  # hands are read
    if kind == "tiling":
        pipe.vae.enable_tiling(tile_sample_min_height=64, tile_sample_min_width=64)
    else:
        pipe.enable_model_cpu_offload(device=torch.device("cpu"))
        loaded: list[str] = []  # on a GPU only what was loaded last is there
        for name in ("text_encoder", "transformer", "vae"):
            hook = getattr(pipe, name)._hf_hook

            def before(
                module: Any, *args: Any, name: str = name, do: Any = hook.pre_forward, **more: Any
            ) -> Any:
                loaded.append(name)
                return do(module, *args, **more)

            hook.pre_forward = before
        read: list[str] = []
        pipe.transformer.guider.register_forward_pre_hook(lambda *_: read.append(loaded[-1]))
        pipe.vae.decoder.register_forward_pre_hook(lambda *_: read.append(loaded[-1]))
        assert torch.equal(pipe(given, FAST, latents=noise()), plain)
        assert set(read) == {"transformer", "vae"}
        assert read[0] == "transformer"
    assert torch.equal(pipe(given, FAST, latents=noise()), plain)


@torch.no_grad()
def test_tiles_smaller_than_the_frame_give_nearly_the_same_picture(pipeline: Any) -> None:
    latents = torch.randn(1, 16, 2, 16, 16, generator=torch.Generator().manual_seed(0)) / 4
    whole = decode(pipeline.vae, latents)
    pipeline.vae.enable_tiling(64, 64, 48, 48)
    try:
        tiled = decode(pipeline.vae, latents)
    finally:
        pipeline.vae.disable_tiling()
    assert tiled.shape == whole.shape == (1, 3, 5, 128, 128)
    assert not torch.equal(tiled, whole)
    assert float((tiled - whole).abs().mean()) < 0.1 * float(whole.std())
