"""One strict configuration class for a campaign: every key known, every mistake named."""

from __future__ import annotations

from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from selector.errors import UsageError
from selector.mongo_address import filled, read_uri_file, without_credentials


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseConfig(_Strict):
    """Where the campaign's memory lives.

    ``uri`` names a MongoDB; ``${NAME}`` is taken from the environment, so that no password stands in the campaign's
    file. Or ``uri_file`` names a file of yours alone that holds the URI. Without either, a local database keeps its
    data in the campaign's folder.
    """

    uri: str | None = None
    uri_file: Path | None = None
    name: str = Field("selector", pattern=r'^[^/\\. "$*<>:|?]{1,63}$')

    @model_validator(mode="after")
    def _one_address(self) -> DatabaseConfig:
        if self.uri and self.uri_file:
            raise ValueError("uri and uri_file are given both: leave one out")
        return self


class EngineConfig(_Strict):
    """Which program computes the spectra, and with which preset and options."""

    name: str = "gpaw"
    preset: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class PredictorConfig(_Strict):
    """Which weights to start from (default: those that ship), and how many results start a fine-tuning.

    ``ipa_checkpoint`` are those that read IPA spectra beside structures, for a campaign that has some.
    """

    checkpoint: Path | None = None
    ipa_checkpoint: Path | None = None
    retrain_every: int = Field(5, ge=1)


class PolicyConfig(_Strict):
    """How the next candidates are chosen; ``threshold`` is the SC[RPA; IPA] below which RPA is wanted.

    ``diversity`` and ``value_floor`` are those of `selector.policies.ValuePerCost`. An expected error below 0.01 is
    less than the settings of a calculation leave open (docs/engines.md, how SC depends on the settings).
    ``random_share`` of the CPU-hours go to what is drawn by lot, whatever the policy: on it intervals are measured.
    """

    name: str = "value_per_cost"
    threshold: float = Field(0.75, gt=0.0, le=1.0)
    diversity: float = Field(0.1, ge=0.0, le=1.0)
    value_floor: float = Field(0.01, ge=0.0, le=1.0)
    random_share: float = Field(0.05, ge=0.0, le=1.0)


class StopConfig(_Strict):
    """What ends a campaign beside budget, pool and deadline.

    ``value_floor``: the expected error per CPU-hour of the best that remains. ``bound``: the share of materials with SC
    below the threshold among those without a result, once it is shown (`selector.looks`).
    """

    value_floor: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    bound: float | None = Field(None, gt=0.0, lt=1.0)


CHANGEABLE = ("deadline", "max_in_flight", "lost_after_h")
"""What may change in mid-campaign, each change an event; all else is settled when the campaign begins."""


class CampaignConfig(_Strict):
    """A campaign. Relative paths count from the configuration file's folder.

    ``ipa``: whether the choice is made again where an IPA spectrum is at hand (`selector.stages`): never ("skip"),
    where one was given ("have"), or after every material that is chosen got its own ("compute").
    ``lost_after_h``: hours without a heartbeat after which a run counts as lost (`fw_tasks.lost`).
    """

    campaign: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    folder: Path
    budget_cpu_h: float = Field(gt=0.0, allow_inf_nan=False)
    database: DatabaseConfig = DatabaseConfig()
    engine: EngineConfig = EngineConfig()
    predictor: PredictorConfig = PredictorConfig()
    policy: PolicyConfig = PolicyConfig()
    ipa: Literal["skip", "have", "compute"] = "skip"
    stop: StopConfig = StopConfig()
    audit_fraction: float = Field(0.05, ge=0.0, lt=1.0)
    budget_calculations: int | None = Field(None, ge=1)
    caps_cpu_h: dict[Literal["ipa", "rpa", "learn"], Annotated[float, Field(gt=0.0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    deadline: AwareDatetime | None = None
    max_in_flight: int = Field(2, ge=1)
    max_attempts: int = Field(2, ge=1)
    lost_after_h: float = Field(4.0, gt=0.0, allow_inf_nan=False)
    cores_per_job: int = Field(1, ge=1)
    reserve_quantile: float = Field(0.995, gt=0.5, lt=1.0)
    seed: int = 0

    @field_validator("campaign", mode="before")
    @classmethod
    def _name_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @field_validator("deadline", mode="before")
    @classmethod
    def _local_time(cls, value: Any) -> Any:
        """YAML's own dates and times; without a zone, this machine's."""
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                return value
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        return value.astimezone() if isinstance(value, datetime) and value.tzinfo is None else value

    def account(self) -> dict[str, Any]:
        """What the ledger opens with, beside the budget."""
        caps_n = {} if self.budget_calculations is None else {"rpa": self.budget_calculations}
        return {"audit_fraction": self.audit_fraction, "caps_cpu_h": dict(self.caps_cpu_h), "caps_n": caps_n}

    def database_uri(self) -> str | None:
        """The MongoDB URI with the environment's variables filled in; None means the local database.

        Raises
        ------
        UsageError
            A variable is not set, or ``uri_file`` cannot be read or may be read by others.
        """
        file, uri = self.database.uri_file, self.database.uri
        if file is not None:
            uri = read_uri_file(file)
        return filled(uri) if uri else None

    def public(self) -> dict[str, Any]:
        """Plain data for the database: everything but the database's own address, which may hold a password."""
        return self.model_dump(mode="json", exclude={"database"})


def load_config(path: Path) -> CampaignConfig:
    """Read a campaign's YAML file.

    Raises
    ------
    UsageError
        The file is missing or not YAML, a key is unknown or missing, or a value is out of its range; the message names
        file and key.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; name the campaign's YAML file with --config") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: cannot be read ({e.__class__.__name__}); give a readable YAML file") from None
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML; see configs/campaign.yaml for an example") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: not a mapping of keys to values; see configs/campaign.yaml for an example")
    try:
        config = CampaignConfig.model_validate(data)
    except ValidationError as e:
        raise UsageError(f"{path}: {'; '.join(_explain(error) for error in e.errors())}") from None
    home = path.resolve().parent
    updates: dict[str, Any] = {"folder": (home / config.folder.expanduser()).resolve()}
    weights = {name: getattr(config.predictor, name) for name in ("checkpoint", "ipa_checkpoint")}
    found = {name: (home / file.expanduser()).resolve() for name, file in weights.items() if file is not None}
    updates["predictor"] = config.predictor.model_copy(update=found)
    if config.database.uri_file is not None:
        uri_file = (home / config.database.uri_file.expanduser()).resolve()
        updates["database"] = config.database.model_copy(update={"uri_file": uri_file})
    return config.model_copy(update=updates)


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'; remove it or correct its spelling (configs/campaign.yaml explains every key)"
    if error["type"] == "missing":
        return f"key '{key}' is missing; add it (configs/campaign.yaml explains every key)"
    if key.startswith("database") and error["type"] != "string_pattern_mismatch":
        # What was given may be a URI with its password.
        return f"key '{key}': {without_credentials(error['msg'].removeprefix('Value error, '))}"
    return f"key '{key}': {error['msg'][:1].lower()}{error['msg'][1:]}, not {error['input']!r}"
