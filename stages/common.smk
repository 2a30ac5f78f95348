# Wires the rules to the settings of this run; `pipeline/recipes/flow.py` answers. Nothing here imports torch.
import re
import sys

from pipeline.dataset.manifest import known_datasets, known_splits
from pipeline.io.errors import PipelineError
from pipeline.recipes.flow import Flow


def stop(error):
    """End with the message alone: the user can repair everything that it says."""
    sys.stderr.write(f"\nerror: {error}\n")
    sys.exit(2)


def ask(question):
    """A method of the flow as a function of wildcards that ends the parse where the flow raises."""

    def answer(wildcards):
        try:
            return question(wildcards)
        except PipelineError as error:
            stop(error)

    return answer


try:
    FLOW = Flow(config)
except PipelineError as error:
    stop(error)

RUN = FLOW.run


wildcard_constraints:
    dataset="|".join(known_datasets()),
    # Names with other signs first: a name such as val-1 must not be taken for val and the head 1-NAME.
    split="|".join([*map(re.escape, known_splits()), "[A-Za-z0-9_]+"]),
    head=r"[A-Za-z0-9._-]+",
    recipe=r"[A-Za-z0-9._+-]+",
    trunk="no-pretrain|fisher",
    digest=r"[0-9a-f]{10}",
    i=r"\d+",
    n=r"\d+",
