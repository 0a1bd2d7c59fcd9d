"""The rows of models: the operator's file or the shipped ones, and those that variables make by themselves."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

from loquent import engines
from loquent.domain.errors import Misconfigured
from loquent.domain.models import BOOLEAN, CHAT, JSON_SCHEMA, SUMMARY, TEXT, VISION, Model, Timeouts, from_rows
from loquent.domain.requests import Parameters
from loquent.settings import Settings

PREDICTOR = "image-predictor"
"""What the model of IMAGE_MODEL_URL is called."""

EXTRACTIVE = "extractive"
"""What summarises until a model is named for it, beside whatever rows there are: no model invents what it says."""

OPENAI = "OPENAI_API_KEY"
"""The variable that makes a row by itself, where no row has its key."""

ML, ML_SECONDS = "ml", 50.0
"""What the model of ML_URL is called, and the seconds that it has: the documents family's own."""


def model_rows(found: Settings, *, every: bool = False) -> list[Model]:
    """The rows of the operator's file, or the shipped ones; and those that variables make by themselves.

    ``every``: also shipped ones for which something is not here.
    """
    if found.models is not None:
        where, text = str(found.models), found.models.read_text("utf-8")
    else:
        where, text = "models.toml", resources.files("loquent").joinpath("models.toml").read_text("utf-8")
    try:
        rows: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{where} is not TOML: {error}") from error
    models = from_rows(rows, where)
    if found.models is None and not every:
        models = [model for model in models if not _lacks(found, model)]
    if found.summary_model == EXTRACTIVE and all(model.name != EXTRACTIVE for model in models):
        models.append(Model(EXTRACTIVE, EXTRACTIVE, EXTRACTIVE, frozenset((SUMMARY,))))
    if found.image_model_url and all(model.name != PREDICTOR for model in models):
        models.append(_predictor_row(found))
    if found.openai_api_key and all(found.openai_model != model.name and model.key_env != OPENAI for model in models):
        models.insert(0, _openai_row(found))
    if found.ml_url and all(model.name != ML for model in models):
        models.append(_ml_row(found))
    return models


def made_by_key(found: Settings, row: Model) -> bool:
    """Whether that row answers because a key is set, and by nobody's choice."""
    return bool(found.openai_api_key) and not found.model and row == _openai_row(found)


def lacking(found: Settings) -> dict[str, str]:
    """Shipped models for which something is not here, and what would bring it."""
    if found.models is not None:
        return {}
    rows = model_rows(found, every=True)
    return {row.name: " and ".join(how) for row in rows if (how := _lacks(found, row))}


def left_out(found: Settings) -> list[str]:
    """A line for the shipped models that would answer where none is named, and lack something: how to get it."""
    lacks = lacking(found)
    if not lacks:
        return []
    rows = model_rows(found, every=True)
    chosen = ((CHAT, found.model), (VISION, found.image_model or found.image_model_url))
    firsts = {next((row.name for row in rows if ability in row.abilities), "") for ability, name in chosen if not name}
    told = "; ".join(f"{name} (get it by: {how})" for name, how in lacks.items() if name in firsts)
    return [f"models are left out until the next start: {told}"] if told else []


def _lacks(found: Settings, row: Model) -> list[str]:
    """What would bring what a shipped row needs; nothing for one that a setting names: that has to tell of it."""
    named = (found.model, found.summary_model, found.image_model, found.document_model, found.text_model, found.llm_id)
    return [] if row.name in named or row.id in named else engines.lacks(row, found.weights_dir)


def _openai_row(found: Settings) -> Model:
    return Model(
        name=found.openai_model,
        engine="openai",
        id=found.openai_model,
        abilities=frozenset((CHAT, TEXT, JSON_SCHEMA)),
        defaults=Parameters(max_tokens=found.openai_max_tokens or None, temperature=found.openai_temperature),
        url=found.openai_base_url,
        key_env=OPENAI,
    )


def _predictor_row(found: Settings) -> Model:
    abilities = frozenset((VISION, BOOLEAN))
    return Model(name=PREDICTOR, engine="http_image", id=PREDICTOR, abilities=abilities, url=found.image_model_url)


def _ml_row(found: Settings) -> Model:
    abilities = frozenset((TEXT,))
    return Model(
        name=ML, engine="http_text", id=ML, abilities=abilities, url=found.ml_url, timeouts=Timeouts(total=ML_SECONDS)
    )
