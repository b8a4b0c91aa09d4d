"""The page of the study says what its published runs and ledgers give."""

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
