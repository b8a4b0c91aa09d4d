"""Pages of studies say what their published runs and ledgers give."""

import finetune_laws
import hundredfold_page
import numpy as np
import pytest


def test_the_page_is_written_from_the_published_files():
    assert hundredfold_page.PAGE.read_text() == hundredfold_page.page(), "python tests/hundredfold_page.py"


def test_every_forecast_was_registered_by_the_fit_of_the_published_runs():
    for each in hundredfold_page.repetitions():
        law = each.fitted()
        for said, came in each.outcomes:
            found = law.forecast(num_params_total=said["num_params_total"], num_tokens=said["num_tokens"])
            assert said["predicted_loss"] == pytest.approx(found.predicted_loss, rel=1e-6)
            assert said["interval"] == pytest.approx(found.interval, rel=1e-5)
            runs, losses = np.array(each.table["run_id"]), np.array(each.table["loss"], float)
            assert losses[runs == said["run_id"]] == [came["observed_loss"]]


def test_size_and_fine_tuning_text_interact_as_their_page_says():
    said = (hundredfold_page.DOCS / "fine_tuning.md").read_text().replace("\n", " ")
    pairs = [finetune_laws.interaction(finetune_laws.cells(finetune_laws.PUBLISHED, epochs)) for epochs in (1, 2, 4)]
    first, second, third = (f"{slope:.4f} ± {half:.4f}".replace("0.", ".") for slope, half in pairs)
    assert f"{first}, {second} and {third} after one, two and four passes" in said
    table = finetune_laws.cells(finetune_laws.PUBLISHED, 1)
    errors = [finetune_laws.left_out(table, law).mean() for law in (finetune_laws.SUM, finetune_laws.PRODUCT)]
    assert (
        "off by {} % on average and the product by {} % after one pass".format(
            *(f"{100 * error:.2f}".lstrip("0") for error in errors)
        )
        in said
    )
