# Wires the rules to `pipeline.workflow`, which answers what they ask. A parse that finds nothing changed imports no torch.
import re
import sys

from pipeline.dataset.manifest import known_datasets, known_splits
from pipeline.io.errors import PipelineError
from pipeline.trunk.registry import MADE_TRUNKS
from pipeline.workflow.due import Due
from pipeline.workflow.flow import Flow, refuse_lost_keys
from pipeline.workflow.fold import fold_output
from snakemake.logging import logger


# A job on another machine, and other people's workflows, keep Snakemake's own output.
if workflow.exec_mode.name == "DEFAULT" and workflow.modifier.is_main_snakefile():
    fold_output(logger, workflow.output_settings)


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
    refuse_lost_keys(workflow.configfiles)
    FLOW = Flow(config)
except PipelineError as error:
    stop(error)

RUN = FLOW.run
DUE = Due(FLOW)


wildcard_constraints:
    dataset="|".join(known_datasets()),
    # Names with other signs first: a name such as val-1 must not be taken for val and the head 1-NAME.
    split="|".join([*map(re.escape, known_splits()), "[A-Za-z0-9_]+"]),
    head=r"[A-Za-z0-9._-]+",
    recipe=r"[A-Za-z0-9._+-]+",
    trunk="|".join(MADE_TRUNKS),
    digest=r"[0-9a-f]{10}",
    i=r"\d+",
    n=r"\d+",
