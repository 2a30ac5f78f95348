"""What the rules of the workflow ask: inputs, settings of a job, and what is due."""
