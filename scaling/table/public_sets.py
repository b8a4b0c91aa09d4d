"""The published tables of runs that `public_tables` can read: where they are, how they count, under which licence."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PublicTable:
    """A published set: where it is, how it counts, and what its columns mean."""

    id: str
    content: str
    citation: str
    licence: str
    counting: str
    """How parameters, tokens and losses are counted."""
    url: str = ""
    """Of the file itself; empty where there is no single file of plain text."""
    sha256: str = ""
    """Of the version the mapping was checked against; empty: give the one you trust."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column name to theirs, or to a formula of theirs (`scaling/table/expression.py`)."""
    drop: str | None = None
    """Rows left out, as in `kleiber fit --drop`."""
    num_highest_dropped: int = 0
    """Rows of the highest losses that are left out too, where there are more than these."""
    note: str = ""
    last_of: str = ""
    """Keep only the row of the most steps of each value of this column."""
    reader: str = "table"
    """"table" for CSV (gzipped too) or Parquet, "records" for a folder of JSON files."""


COUNTS = {"num_params_total": "params", "num_tokens": "tokens"}
SCALEBENCH = "sijieli/scalebench on Hugging Face (Li 2026, arXiv:2604.22753)"
TABLES = (
    PublicTable(
        "datablations",
        "296 runs with repeated data, 182 of them in the published fit",
        "Muennighoff et al. 2023, arXiv:2305.16264, notebook utils/parametric_fit.ipynb as one CSV",
        "Apache-2.0",
        "parameters by the authors' size table; tokens include repeats; nats per token on C4",
        sha256="88ef1da8df7f787db62cfd73c1d39242e5ffe05bfadb7e9c3d121e45f606af79",
        columns={"loss": "val_loss", **COUNTS, "num_unique_tokens": "unique_tokens"},
        note="--drop 'in_published_fit != 1' gives the authors' rows; 'epochs > 1' leaves the single-pass ones",
    ),
    PublicTable(
        "chinchilla",
        "245 runs read from figure 4 of the Chinchilla paper",
        "Besiroglu et al. 2024, arXiv:2404.10102",
        "no licence file: link to it, do not pass it on",
        "all parameters; tokens are FLOPs / 6 / parameters, so the three columns are two; losses read from colours",
        url="https://raw.githubusercontent.com/epoch-research/analyzing-chinchilla/"
        "92258837425e1b5f2851d624287f0120583a3d0e/data/svg_extracted_data.csv",
        columns={
            "num_params_total": "Model Size",
            "flops": "Training FLOP",
            "num_tokens": "Training_FLOP / 6 / Model_Size",
        },
        num_highest_dropped=5,
        note="the 5 runs of highest loss are left out, as in the refit; losses are good to about 0.01",
    ),
    PublicTable(
        "gadre",
        "104 models on three corpora, 5 to 640 tokens per parameter",
        "Gadre et al. 2024, arXiv:2403.08540, folder exp_data/models of mlfoundations/scaling",
        "MIT",
        "all parameters, embeddings included; nats per token on 11 shards of C4 validation text",
        columns={**COUNTS, "num_params_non_embedding": "params_no_embed"},
        note="fit one corpus at a time: --drop \"family != 'c4_original'\"; give the folder as FILE",
        reader="records",
    ),
    PublicTable(
        "routed",
        "dense and routed language models, the last evaluation of each",
        "Clark et al. 2022, arXiv:2202.01169, data/curves.csv.gz",
        "CC-BY-4.0 (data), Apache-2.0 (code)",
        "active parameters are those one token touches; total counts every expert; nats per token",
        url="https://raw.githubusercontent.com/google-deepmind/scaling_laws_for_routing/"
        "7b1cc8fef4ec707c8a0a82daa7e42b8d60573ed6/data/curves.csv.gz",
        columns={
            "loss": "loss_validation",
            "num_params_total": "total_parameter_count",
            "num_params_active": "dense_parameter_count",
            "num_steps": "step",
            "trunk_id": "hyper_id",
            "family": "router_type",
        },
        last_of="hyper_id",
        note="the table has no token counts, so nothing can be said about data",
    ),
    PublicTable(
        "scalebench_data_constrained",
        "182 runs with repeated data, split into train and target",
        SCALEBENCH,
        "CC-BY-4.0",
        "as datablations",
        columns={**COUNTS, "num_unique_tokens": "unique_tokens"},
    ),
    PublicTable(
        "scalebench_moe",
        "221 mixtures of experts",
        SCALEBENCH,
        "CC-BY-4.0",
        "dense parameters of one token's path; no token counts",
        columns={"loss": "loss_validation", "num_params_active": "dense_parameter_count"},
    ),
    PublicTable(
        "scalebench_lr_bsz",
        "2,819 runs over learning rate and batch size",
        SCALEBENCH,
        "CC-BY-4.0 card, but its upstream carries no licence file: ask before passing it on",
        "non-embedding parameters",
        columns={
            "loss": "lm_loss",
            "learning_rate": "lr",
            "batch_size": "bsz",
            "num_tokens": "data_size",
            "num_params_non_embedding": "non_embedding_param_size",
        },
    ),
    PublicTable(
        "scalebench_farseer",
        "411 runs over a wide grid of parameters and tokens",
        SCALEBENCH,
        "CC-BY-4.0 card, but its upstream carries no licence file: ask before passing it on",
        "parameters N and tokens D as upstream counts them",
        columns={"num_params_total": "N", "num_tokens": "D"},
    ),
    PublicTable(
        "porian",
        "16 sizes with full curves, tuned and untuned",
        "Porian et al. 2024, arXiv:2406.19146, data/experiment_results.pickle.xz",
        "MIT",
        "give total or non-embedding parameters yourself: the exponent depends on it",
        columns=COUNTS,
        note="published as a pickle, which can run code when opened: convert it to CSV (params, tokens, loss) in a "
        "sandbox first; kleiber reads no pickles",
    ),
)


def get_public_table(name: str) -> PublicTable:
    """Returns the set of that name.

    Raises:
      ValueError: naming the nearest.
    """
    names = [table.id for table in TABLES]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no public table {name!r}.{hint} Tables: {', '.join(names)}.")
    return TABLES[names.index(name)]
