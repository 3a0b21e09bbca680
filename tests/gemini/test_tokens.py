"""The estimate of a request's tokens is slightly above the server's count, and tokens are priced."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.gemini.api.model_families import GEMINI_2_5, GEMINI_3
from actors.gemini.api.packing import Crop, pack
from actors.gemini.api.request import response_json_schema
from actors.gemini.api.shown_crops import shown_crop
from actors.gemini.api.tokens import TokenUsage, cost_usd, crop_tokens, estimate_input_tokens
from actors.gemini.price_settings import GeminiPrices
from actors.gemini.settings import GeminiSettings, resolve_gemini
from tests.servers.gemini_server import MODEL, MODEL_2_5, gemini_server
from tests.support.gemini_asking import SCHEMA, asking, jpeg, settings_for


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (1, 1, 258),
        (384, 384, 258),
        # This is the example in ai.google.dev/gemini-api/docs/tokens, with tiles of 360 pixels.
        (960, 540, 6 * 258),
        (170, 512, 10 * 258),
        (385, 385, 4 * 258),
        (1, 1000, 1000 * 258),
    ],
)
def test_large_images_count_by_tiles_on_2_5(width, height, tokens):
    assert GEMINI_2_5.tokens_of(width, height, "auto") == tokens
    assert GEMINI_2_5.tokens_of(height, width, "auto") == tokens
    assert GEMINI_3.tokens_of(width, height, "auto") == 280


@pytest.mark.parametrize(
    ("family", "resolution", "tokens"),
    [
        (GEMINI_2_5, "low", 64),
        (GEMINI_2_5, "medium", 256),
        (GEMINI_3, "low", 280),
        (GEMINI_3, "medium", 560),
        (GEMINI_3, "high", 1120),
    ],
)
def test_a_media_resolution_has_its_own_count(family, resolution, tokens):
    assert family.tokens_of(1000, 1000, resolution) == tokens


def test_a_crop_that_is_no_image_counts_as_a_small_one():
    for settings in (GeminiSettings(), GeminiSettings(model=MODEL_2_5)):
        small = crop_tokens(Crop("small", jpeg(1)), settings)
        assert crop_tokens(Crop("broken", b"nothing"), settings) == small


@pytest.mark.parametrize("count", [1, 8, 32])
@pytest.mark.parametrize("model", [MODEL, MODEL_2_5])
@pytest.mark.parametrize(
    "changes", [{}, {"media_resolution": "low"}, {"media_resolution": "high"}, {"reasoning": True}]
)
def test_the_estimate_is_never_below_and_little_above_what_the_server_counts(count, changes, model):
    """The server counts with its own code, which follows the same documentation."""
    sizes = [(40, 90), (170, 512), (300, 300)]
    images = [Crop(str(n), jpeg(n, *sizes[n % 3])) for n in range(count)]
    (request,) = pack(images, count, seed=0)
    changes = {**changes, "model": model}
    with gemini_server(models=(model,)) as server:
        settings = settings_for(server.base_url, **changes)
        answer = asking(server.base_url, server.key, lambda c: c.ask(request), **changes)
    estimate = estimate_input_tokens(request, settings, resolve_gemini(settings, SCHEMA), SCHEMA)
    assert answer.usage.input <= estimate <= 1.25 * answer.usage.input


def test_prompt_and_crops_can_be_counted_by_the_server():
    images = [Crop(str(n), jpeg(n)) for n in range(4)]
    (request,) = pack(images, 4, seed=0)
    with gemini_server() as server:
        counted = asking(server.base_url, server.key, lambda c: c.count_tokens(request))
        assert [seen.tokens for seen in server.journal] == [counted]
    assert counted > 4 * 280


def test_output_and_thinking_are_priced_alike_and_batch_at_its_share():
    usage = TokenUsage(input=2_000_000, output=600_000, thinking=400_000)
    settings = GeminiSettings(model="gemini-2.5-pro", prices=GeminiPrices(input_usd=0.3, output_usd=2.5))
    assert cost_usd(usage, settings) == pytest.approx(3.1)
    assert cost_usd(usage, settings, batch=True) == pytest.approx(1.55)


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("gemini-3.5-flash-lite", 2.8),
        ("gemini-2.5-flash", 2.8),
        ("gemini-2.5-flash-lite", 0.5),
        ("gemini-2.5-flash-lite-preview-09-2025", 0.5),
        ("gemini-2.5-pro-001", 11.25),
        ("gemini-of-next-year", 10.5),
    ],
)
def test_prices_follow_the_model_unless_they_are_configured(model, usd):
    usage = TokenUsage(input=1_000_000, output=1_000_000)
    assert cost_usd(usage, GeminiSettings(model=model)) == pytest.approx(usd)
    own = GeminiSettings(model=model, prices=GeminiPrices(input_usd=1, output_usd=1))
    assert cost_usd(usage, own) == pytest.approx(2)


def size_of(image: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        return opened.size


def test_large_crops_are_scaled_down_to_one_tile():
    settings = GeminiSettings(model=MODEL_2_5)
    tall = jpeg(1, 170, 512)
    shrunk = shown_crop(tall, settings)
    assert size_of(shrunk) == (128, 384)
    assert shrunk == shown_crop(tall, settings)
    assert crop_tokens(Crop("tall", tall), settings) > 9 * crop_tokens(Crop("shrunk", shrunk), settings)
    assert size_of(shown_crop(jpeg(1, 4000, 2), settings)) == (384, 1)


@pytest.mark.parametrize("image", [jpeg(1, 384, 100), b"", b"not an image"])
def test_small_crops_and_what_is_none_stay_as_they_are(image):
    assert shown_crop(image, GeminiSettings()) is image


def test_without_a_limit_nothing_is_scaled():
    tall = jpeg(1, 170, 512)
    assert shown_crop(tall, GeminiSettings(max_side_px=None)) is tall


def test_the_schema_of_answers_is_made_once():
    same = AttributeSchema(SchemaSettings())
    assert response_json_schema(same, False) is response_json_schema(SCHEMA, False)
    assert response_json_schema(SCHEMA, True) != response_json_schema(SCHEMA, False)
