"""Which models answer, where their weights are, and what the embedded engine may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loquent.domain.kinds import FILE, FOLDER, HTTP, KEY_HOSTS, SIZE, TEXT, number, setting, whole

GROUP = "Models"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Models:
    """Which models there are, and which answer where none is named."""

    models: Path | None = setting(
        None,
        FILE,
        "A TOML file of model rows, [[model]] each.",
        env="LOQUENT_MODELS",
        group=GROUP,
        shown_default="the shipped rows",
    )
    key_hosts: tuple[tuple[str, str], ...] = setting(
        (),
        KEY_HOSTS,
        "The hosts to which models that are added at run time may send the key of a variable; those of the rows of "
        "LOQUENT_MODELS go without saying.",
        env="LOQUENT_KEY_HOSTS",
        group=GROUP,
        shown_default="none",
    )
    models_dir: Path | None = setting(
        None,
        FOLDER,
        "Where model weights are kept.",
        env="LOQUENT_MODELS_DIR",
        group=GROUP,
        shown_default="{LOQUENT_DATA_DIR}/models",
    )
    model: str = setting(
        "",
        TEXT,
        "The model that answers where a caller names none.",
        env="LOQUENT_MODEL",
        group=GROUP,
        shown_default="the first row that can chat",
    )
    text_model: str = setting(
        "",
        TEXT,
        "The model that goes on from a prompt for the textgen family; a name that is no model's here is passed over.",
        env="MODEL_NAME",
        group=GROUP,
        shown_default="the one of LLM_ID, otherwise LOQUENT_MODEL",
    )
    llm_id: str = setting(
        "",
        TEXT,
        "The same by the model's id, as at Hugging Face; one that is no model's here is passed over.",
        env="LLM_ID",
        group=GROUP,
        shown_default="none",
    )
    summary_model: str = setting(
        "extractive",
        TEXT,
        "The model that summarises where a caller names none.",
        env="LOQUENT_SUMMARY_MODEL",
        group=GROUP,
    )
    image_model: str = setting(
        "",
        TEXT,
        "The model that says what is in an image where a caller names none.",
        env="LOQUENT_IMAGE_MODEL",
        group=GROUP,
        shown_default="the first row with vision",
    )
    image_model_url: str = setting(
        "",
        HTTP,
        "An HTTP predictor for images; with it a model row is made by itself.",
        env="IMAGE_MODEL_URL",
        group=GROUP,
        shown_default="none",
    )
    document_model: str = setting(
        "",
        TEXT,
        "The model that answers about a document where a caller names none.",
        env="LOQUENT_DOCUMENT_MODEL",
        group=GROUP,
        shown_default="the one of ML_URL, otherwise the summary model",
    )
    ml_url: str = setting(
        "",
        HTTP,
        "An HTTP generator for documents, asked at /generateContent; with it a model row is made by itself.",
        env="ML_URL",
        group=GROUP,
        shown_default="none",
    )
    llama_slots: int = setting(
        4,
        whole(1, 64),
        "Answers that the embedded engine makes at the same time.",
        env="LOQUENT_LLAMA_SLOTS",
        group=GROUP,
    )
    llama_threads: int = setting(
        0,
        whole(0, 256),
        "Processor threads of the embedded engine; 0: as many as there are cores, but one.",
        env="LOQUENT_LLAMA_THREADS",
        group=GROUP,
    )
    llama_context: int = setting(
        4096,
        whole(256, 1_048_576),
        "Tokens that one answer's input and output may have, where the model allows.",
        env="LOQUENT_LLAMA_CONTEXT",
        group=GROUP,
    )
    llama_memory: int | None = setting(
        None,
        SIZE,
        "Memory that embedded models may take together: the one that was asked longest ago makes room. 0: no bound.",
        env="LOQUENT_LLAMA_MEMORY",
        group=GROUP,
        shown_default="three quarters of the machine's",
    )
    openai_api_key: str = setting(
        "",
        TEXT,
        "A key for an OpenAI-compatible server; with it a model row is made by itself.",
        env="OPENAI_API_KEY",
        group=GROUP,
        secret=True,
    )
    openai_base_url: str = setting(
        "https://api.openai.com/v1", HTTP, "The base URL of that server.", env="OPENAI_BASE_URL", group=GROUP
    )
    openai_model: str = setting("gpt-4o-mini", TEXT, "The model that is asked there.", env="OPENAI_MODEL", group=GROUP)
    openai_max_tokens: int = setting(
        0,
        whole(0, 1_000_000),
        "Tokens of an answer from there, where a caller names none; 0: its own limit.",
        env="OPENAI_MAX_TOKENS",
        group=GROUP,
    )
    openai_temperature: float | None = setting(
        None,
        number(0, 2),
        "Temperature there, where a caller names none.",
        env="OPENAI_TEMPERATURE",
        group=GROUP,
        shown_default="its own",
    )
