"""From a configuration to a report: stages that rerun only when their inputs changed."""
