"""The run-time checker of annotations: an int may stand where a float is asked for, as type checkers have it."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
