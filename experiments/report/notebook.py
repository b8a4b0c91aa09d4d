# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
# This notebook is the same file for every sweep: it tells of the one in whose folder it lies.
import os
from pathlib import Path

from IPython.display import HTML, Image, display
from matplotlib.figure import Figure

import kleiber as kb
from kleiber.experiments.report import drawing, markup, story, tables, translations
from kleiber.experiments.report.results import read_results
from kleiber.scaling.figures.style import claim_of

sweep = Path(os.environ.get("KLEIBER_SWEEP_DIR", "."))
study = drawing.Study(read_results(sweep))
experiment = study.results.experiment
display(HTML(f"<style>{(Path(markup.__file__).parent / 'report.css').read_text(encoding='utf-8')}</style>"))


def show(*names: str) -> None:
    """Shows figures, each with its claim as the text that stands in for it, or says what they wait for."""
    gaps: dict[str, list[str]] = {}
    for name in names:
        try:
            figure = drawing.draw(study, name)
        except drawing.NotThereYet as gap:
            gaps.setdefault(str(gap), []).append(name)
        else:
            display(Image(drawing.png(figure), format="png", width=1060, alt=claim_of(figure)))
    for reason, waiting in gaps.items():
        display(markup.callout(f"Not drawn ({', '.join(waiting)}): {reason}.", "wait"))


# %%
mood, sentence = story.verdict(study)
display(markup.heading(experiment.get("name", study.results.directory.name)))
display(markup.Markup(f'<p class="question">{markup.text(experiment.get("question", ""))}</p>'))
display(markup.callout(sentence, mood))
display(tables.answer_box(study))
display(story.headline_tiles(study))

# %%
show(*drawing.leading_figures(study))

# %% tags=["law"]
display(tables.forecast_table(study) if study.targets else markup.Markup(""))
display(tables.gate_table(study))

# %%
display(tables.missing_box(study))

# %% [markdown]
# ## What was measured

# %%
display(markup.paragraph(*story.measured_sentences(study)))
show("curves")

# %% [markdown] tags=["images"]
# ## What it says of images
#
# The run of least loss on the images that were held out.

# %% tags=["images"]
show("labels")

# %% [markdown] tags=["pairs"]
# ## What it makes of sources
#
# Pairs that were held out, spread evenly over them, and what the run of least loss says, found by a beam of four.

# %% tags=["pairs"]
display(translations.translations_table(study.results.directory, study.results.records))

# %% [markdown] tags=["law"]
# ## The law
#
# Loss as a function of size and training length, fitted to the log losses of all finished runs at once.

# %% tags=["law"]
display(tables.if_there(lambda s: markup.paragraph(*story.law_sentences(s)), study))
show(*(("slices", "surface", "frontier") if drawing.is_of_size_and_length(study) else ()))

# %% [markdown] tags=["law"]
# ## How far to trust it
#
# Residuals say whether the form fits where there are runs; rivals say how much the form matters where there are none;
# the forecasts, written down before their runs, say whether any of it extrapolates.

# %% tags=["law"]
show(*(("residuals",) if drawing.is_of_size_and_length(study) else ()), "parameters")
display(tables.if_there(lambda s: markup.paragraph(story.form_sentence(s)), study))
display(tables.if_there(tables.comparison_table, study))
display(tables.if_there(tables.identifiability_box, study))

# %% tags=["target"]
show("truth")

# %% [markdown] tags=["law"]
# ## Constants

# %% tags=["law"]
display(tables.if_there(tables.parameter_table, study))

# %% [markdown]
# ## Where the time went
#
# Training steps, and everything else: compiling, evaluating, reading, saving, and what kills took and resumes repeated.

# %%
show("time")

# %% [markdown]
# ## Reporting checklist
#
# Filled by the software from the sweep directory. What was not measured says what would.

# %%
display(tables.checklist_table(study))

# %% [markdown]
# ## Every run
#
# Figures and fit use the rows of split `fit`; the forecasts are tested on those of split `target`. The same rows, with
# all their columns, are in `table.parquet`.

# %%
display(tables.lost_table(study))
display(tables.run_table(study))

# %% [markdown] tags=["target"]
# ## The ledger
#
# Each line carries the hash of the line before, and a target notes the last one when it begins: an edit shows, even of
# the whole chain, unless the notes in the target's files were edited too.

# %% tags=["target"]
display(tables.ledger_table(study))

# %% [markdown]
# ## Go on from here
#
# Everything above in a few lines of Python: the runs as a table, a figure, the law, and a forecast to change.

# %%
results = kb.results(sweep)
runs = results.table  # a pandas DataFrame, or a dict of arrays without pandas: a row a run, all columns
columns = [
    "run_id",
    *(each.column for each in results.answers.study.factors if each.column in runs),
    "num_tokens",
    "loss",
]
runs[columns].head(8) if hasattr(runs, "head") else columns

# %%
x, y = "num_tokens", "loss"  # any columns of runs
figure = Figure((7, 3.6))
axis = figure.subplots()
axis.loglog(runs[x], runs[y], "o")
axis.set(xlabel=x, ylabel=y)
display(Image(drawing.png(figure), format="png", width=700, alt=f"{y} against {x}"))

# %% tags=["law"]
if study.is_fitted:
    fit = results.fit  # fit.report() says all of it
    known = {name: values for each in fit.fits for name, values in each.scaled.columns.items()}  # of every law
    wanted: dict = {name: 2 * float(max(values)) for name, values in known.items()}
    # change any of these
    display(wanted, fit.forecast(**wanted))
