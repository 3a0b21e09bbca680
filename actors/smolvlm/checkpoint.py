"""Find a model's files and their version, and report missing files, before the run starts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.errors import WeightsError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 22

_WEIGHTS = "model.safetensors"

# One file of each group is enough.
_NEEDED: tuple[tuple[str, ...], ...] = (
    ("config.json",),
    ("processor_config.json", "preprocessor_config.json"),
    ("tokenizer.json", "tokenizer.model", "vocab.json"),
    (_WEIGHTS, "model.safetensors.index.json"),
)
_HASHED = (".json", ".jinja", ".txt", ".model", ".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that was found and is complete.

    Attributes:
        source: Argument for `from_pretrained`: the absolute path of a folder, or a name on the hub.
        revision: Commit on the hub, or None for a folder.
        version: Identity of the files: the commit, or "sha256:" and the hash over the folder's files.
        config: The model's config.json.
    """

    source: str
    revision: str | None
    version: str
    config: Mapping[str, Any] = field(repr=False)


def find_checkpoint(key: str, model: str, revision: str | None) -> Checkpoint:
    """Find a model in a folder, in the hub's local cache or on the hub, in this order.

    Weights aren't downloaded here: each machine that loads the model downloads the resolved commit.

    Args:
        key: The setting that names the model, for messages.
        model: A folder, or a name on the Hugging Face hub.
        revision: Branch, tag or commit on the hub; None for its main branch.

    Raises:
        WeightsError: Files are missing, the model doesn't exist, or the hub is out of reach.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _from_folder(key, folder.resolve())
    if "://" in model:
        raise WeightsError(f"{key}: {model} is a URL; give a folder or a name on the Hugging Face hub")
    if model.startswith(("/", "./", "../", "~")) or not _HUB_NAME.fullmatch(model):
        raise WeightsError(
            f"{key}: there is no folder {model}; give a folder that exists, or a hub name (owner/name)"
        )
    return _from_cache(model, revision) or _from_hub(key, model, revision)


def _from_folder(key: str, folder: Path) -> Checkpoint:
    missing = _missing(folder)
    if missing == [_WEIGHTS] and any(folder.glob("*.bin")):
        # Pickled weights may run code when they are read.
        raise WeightsError(
            f"{key}: {folder} has no weights in safetensors; save it with save_pretrained of a current "
            "transformers"
        )
    if missing:
        raise WeightsError(
            f"{key}: {folder} has no {' and no '.join(missing)}; give the folder "
            "of a whole checkpoint, or the name of a model on the hub"
        )
    _check_safetensors(key, folder)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _HASHED:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
    return Checkpoint(
        str(folder), None, f"sha256:{digest.hexdigest()}", _read_config(key, folder / "config.json")
    )


def _check_safetensors(key: str, folder: Path) -> None:
    """Check the headers of all weights, which say where each tensor is in the file.

    Raises:
        WeightsError: A file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise WeightsError(f"{key}: {path} is damaged or truncated: {error}; get it again") from None


def _missing(folder: Path) -> list[str]:
    missing = [group[0] for group in _NEEDED if not any((folder / name).is_file() for name in group)]
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            missing.append(f"readable {index.name}")
            continue
        missing += sorted(shard for shard in shards if not (folder / shard).is_file())
    return missing


def _read_config(key: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{key}: {path} can't be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{key}: {path} doesn't contain a model's configuration")
    return config


def _from_cache(model: str, revision: str | None) -> Checkpoint | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    if _missing(snapshot):
        return None
    return Checkpoint(model, snapshot.name, snapshot.name, _read_config(model, Path(found)))


def _from_hub(key: str, model: str, revision: str | None) -> Checkpoint:
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    remedy = (
        f"give a folder that holds the model, or run `hf download {model}` on a machine with network access "
        "and set HF_HOME to that cache"
    )
    try:
        # This is one request without retries, so that an unreachable hub is reported at once.
        commit = HfApi().model_info(model, revision=revision, timeout=_HUB_TIMEOUT_S).sha
        if commit is None:
            raise WeightsError(f"{key}: the hub reports no commit for {model}; {remedy}")
        config = hf_hub_download(model, "config.json", revision=commit, etag_timeout=_HUB_TIMEOUT_S)
    except RepositoryNotFoundError:
        raise WeightsError(
            f"{key}: {model} isn't on the hub, or is private: check the name, or set HF_TOKEN"
        ) from None
    except OfflineModeIsEnabled:
        raise WeightsError(f"{key}: {model} isn't in the cache and HF_HUB_OFFLINE is set; {remedy}") from None
    except HfHubHTTPError as error:
        raise WeightsError(
            f"{key}: the hub refused {model} at {revision or 'main'}: {error}; {remedy}"
        ) from None
    except (httpx2.HTTPError, OSError) as error:
        raise WeightsError(
            f"{key}: {model} isn't in the cache and the hub is out of reach ({error}); {remedy}"
        ) from None
    return Checkpoint(model, commit, commit, _read_config(key, Path(config)))
