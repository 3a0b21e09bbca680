"""The settings of the Ray cluster, whose runtime environment may hold no credentials."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_serializer, field_validator

from actors.settings_section import Section

_CREDENTIAL_WORDS = {"KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL", "CREDENTIALS"}
"""Words in the names of variables whose values are kept from logs."""


class RaySettings(Section):
    """The Ray cluster that a run uses."""

    address: str | None = Field(
        None,
        description="Address of the Ray cluster (host:port, ray://... or auto). By default, RAY_ADDRESS if "
        "it is set, else a local Ray is started.",
    )
    num_cpus: int | None = Field(
        None,
        ge=1,
        description="Number of cores that a local Ray may use. By default, all cores of this machine.",
    )
    object_store_bytes: int = Field(
        1 << 30,
        ge=100 << 20,
        description="Maximum memory of a local Ray for shards between stages, in bytes.",
    )
    runtime_env: dict[str, Any] = Field(
        default_factory=dict,
        description="Ray runtime environment, passed to the cluster unchanged. Ray "
        "logs it, so it may hold no credentials.",
    )

    @field_validator("runtime_env")
    @classmethod
    def _has_no_credentials(cls, runtime_env: dict[str, Any]) -> dict[str, Any]:
        for name in runtime_env.get("env_vars") or ():
            if _CREDENTIAL_WORDS & set(str(name).upper().split("_")):
                raise ValueError(
                    f"env_vars.{name} is the name of a credential, and Ray writes this section into its "
                    "logs and the job's metadata; set the variable in the environment of the nodes"
                )
        return runtime_env

    @field_serializer("runtime_env")
    def _without_secrets(self, runtime_env: dict[str, Any]) -> dict[str, Any]:
        if "env_vars" not in runtime_env:
            return runtime_env
        return {**runtime_env, "env_vars": dict.fromkeys(runtime_env["env_vars"], "(not shown)")}
