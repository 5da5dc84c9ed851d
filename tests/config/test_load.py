"""Tests of loading configurations, and of their one-line errors."""

from pathlib import Path

import pytest
import yaml

from otoscope.config import PAPER_SPARSITIES, RunConfig, load_config, parse_config
from otoscope.errors import ConfigError
from otoscope.sae.config import TrainConfig

MINIMAL = "corpus:\n  kind: synth\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_load_config_minimal_file_has_study_defaults(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL))
    assert config.name == "mine"
    assert config.model == "openai/whisper-tiny.en"
    assert config.train.sparsities == PAPER_SPARSITIES
    assert config.train.latents == 2048


def test_parse_config_round_trip_through_json(tmp_path: Path) -> None:
    text = f"{MINIMAL}train: {{presets: {{mine: {{prefixes: [0.5, 1]}}}}, preset: [default, mine]}}\n"
    config = load_config(written(tmp_path, text))
    assert parse_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: folder\nroot: x\n", "kind and root belong in the section corpus; indent them below `corpus:`"),
        ("corpus: {kind: folder, root: x, max_set_aside: 1}\n", r"write max_set_aside at the top level.* \(line 1\)"),
        ("corpus: {kind: folder, root: $HERE/x}\n", r"an environment variable is written \$\{HERE\}"),
        (
            "corpus: {kind: folder, root: x, names: {digit: {0: a, 1: b}}}\n",
            r"corpus\.names\.digit: its codes must be text; write them in quotes, as in '0': zero \(line 1\)$",
        ),
        ("corpus: {kind: synth}\ntrian: {}\n", r"unknown key 'trian'; did you mean train\?"),
        ("corpus: {kind: synth}\ntrain: {latent: 5}\n", r"unknown key 'train.latent'; did you mean latents\?"),
        ("corpus: {kind: synht}\n", r"no corpus kind 'synht'; did you mean synth\?"),
        ("corpus: {kind: fsdd, root: /x, take: 3}\n", r"unknown key corpus.take; did you mean takes\?"),
        ("corpus: {kind: synth}\ntrain: {preset: defualt}\n", r"no preset 'defualt'; did you mean default\?"),
        ("corpus: {kind: synth}\ntrain: {sparsities: [1.5]}\n", r"train.sparsities.0: got 1.5; .* less than 1"),
        ("corpus: {kind: synth}\ntrain: {sparsities: []}\n", "at least one value"),
        ("corpus: {kind: synth}\ntrain: {seeds: [1, 1]}\n", "each once"),
        ("corpus: {kind: synth}\ntrain: {seeds: [0, -1]}\n", r"train.seeds.1: got -1; .* greater than or equal to 0"),
        ("corpus: {kind: synth}\nextract: {dtype: float8}\n", "extract.dtype: got 'float8'"),
        ("corpus: {kind: synth}\nevaluate: {protocols: [stricct]}\n", r"got 'stricct'; did you mean strict\?"),
        ("name: a/b\ncorpus: {kind: synth}\n", "name: got 'a/b'"),
        ("model: x\n", "'corpus' is missing"),
        ("- a\n- b\n", "must hold `key: value` lines, got a list"),
        ("", "must hold `key: value` lines, got nothing"),
        ("a: [\n", "not valid YAML"),
        ("corpus: {kind: fsdd, root: '${NO_SUCH_VARIABLE}'}\n", "NO_SUCH_VARIABLE, which is not set"),
    ],
)
def test_load_config_error_names_the_mistake(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {layers: 3}", r"train.layers: got 3; should be all, or a list"),
        ("train: {layers: al}", r"train.layers: got 'al'; should be all, or a list"),
        ("train: {layers: [0, b]}", r"train.layers.1: got 'b'; Input should be a valid integer, unable to parse .*"),
        ("train: {latents: 1}", r"train.latents: got 1; should be greater than or equal to 2, or a list"),
        ("train: {latents: [1, 64]}", r"train.latents.0: got 1; Input should be greater than or equal to 2"),
        ("evaluate: {strict: {layer: chosn}}", r"strict.layer: got 'chosn'; should be chosen, or a valid integer"),
        ("evaluate: {strict: {sparsity: 2}}", r"strict.sparsity: got 2; should be chosen, or less than 1"),
        ("train: {latents: 1, layers: 3}", r"train.latents: got 1; .*; train.layers: got 3; .*"),
    ],
)
def test_load_config_union_error_is_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, f"{MINIMAL}{text}\n")
    with pytest.raises(ConfigError, match=rf"^{path}: ([a-z.]+\.)?{told} \(line 3\)$"):
        load_config(path)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ("presets: {mine: {sparsifer: relu}}", r"no training setting 'sparsifer'; did you mean sparsifier\?"),
        ("presets: {mine: {name: relu}}", r"no training setting 'name'; known: archetypes"),
        ("presets: {mine: {sparsifier: rleu}}", r"no sparsifier 'rleu'; did you mean relu\?"),
        ("presets: {mine: {init: principel}}", r"train.presets.mine: init: got 'principel'; did you mean principal\?"),
        ("presets: {mine: {epochs: -1}}", r"mine.yaml: train.presets.mine: epochs: got -1; .* greater than 0"),
        ("presets: {mine: {based_on: defualt}}", r"train.presets.mine: .*'defualt'; did you mean default\?"),
        ("presets: {mine: {prefixes: [0.5]}}", r"train.presets.mine: prefixes: .* rise from above 0 to 1"),
        ("presets: {default: {epochs: 1}}", r"train.presets: 'default' is built in; choose another name"),
        ("presets: {a/b: {epochs: 1}}", r"train.presets: got the name 'a/b'; use lower-case"),
        ("presets: {Mine: {epochs: 1}}", r"train.presets: got the name 'Mine'; use lower-case"),
        ("presets: {1: {epochs: 1}}", r"train.presets: got the name 1; use lower-case"),
        ("presets: {mine: relu}", r"train.presets.mine: got 'relu'; give `based_on: ...`"),
        ("presets: [mine]", r"train.presets: got \['mine'\]; give `NAME: "),
        ("{presets: {mine: {}}, preset: mien}", r"train.preset: no preset 'mien'; did you mean mine\?"),
        ("{presets: {mine: {dictionary: archetypal}}, preset: mine}", r"presets.mine: dictionary.*set unit_norm=False"),
        (
            "{presets: {mine: {dead_window_rows: 500, dead_window_epochs: 2}}, preset: mine}",
            r"presets.mine: dead_window_rows=500 and dead_window_epochs=2.0: both set the same window",
        ),
        (
            "{presets: {mine: {temporal: 0.1}}, preset: mine, poolings: [pool_then_encode]}",
            r"presets.mine: temporal=0.1 and rows without neighbours",
        ),
        (
            "{presets: {mine: {prefixes: [0.001, 0.002, 1]}}, latents: 128, preset: [default, mine]}",
            r"presets.mine: prefixes=.* and latents=128: two prefixes",
        ),
        ("{latents: 64, sparsities: [0.99]}", r"train.sparsities: 0.99: k must be at least 1, got 0 of 64 latents"),
    ],
)
def test_load_config_rejects_impossible_presets(tmp_path: Path, train: str, told: str) -> None:
    train = train if train.startswith("{") else f"{{{train}}}"
    with pytest.raises(ConfigError, match=told):
        load_config(written(tmp_path, f"{MINIMAL}train: {train}\n"))


def test_train_config_of_user_preset_changes_its_base(tmp_path: Path) -> None:
    text = f"{MINIMAL}train: {{presets: {{mine: {{epochs: 5}}, other: {{based_on: mariotte2025, batch: 8}}}}}}\n"
    train = load_config(written(tmp_path, text), ["train.presets.mine.sparsifier=relu"]).train
    assert train.preset_names == ("default",)
    assert train.train_config("mine") == TrainConfig.preset("default", epochs=5, sparsifier="relu")
    assert train.train_config("other") == TrainConfig.preset("mariotte2025", batch=8)
    assert train.train_config("default") == TrainConfig.preset("default")


def test_load_config_preset_incompatible_with_grid_is_refused(tmp_path: Path) -> None:
    """A temporal preset is allowed for the sparsity limit (frames), but not for training on pooled clips."""
    both = "presets: {slow: {temporal: 0.1}}, poolings: [encode_then_pool, pool_then_encode]"
    strict = "evaluate: {strict: {limit_presets: [mariotte2025, slow]}}"
    assert load_config(written(tmp_path, f"{MINIMAL}train: {{{both}}}\n{strict}\n")).train.train_config("slow").temporal
    with pytest.raises(ConfigError, match=r"presets\.slow: temporal=0\.1"):
        load_config(written(tmp_path, f"{MINIMAL}train: {{{both}, preset: slow}}\n{strict}\n"))
    with pytest.raises(ConfigError, match=r"limit_presets: no preset 'slwo'; did you mean slow\?"):
        load_config(written(tmp_path, f"{MINIMAL}train: {{{both}}}\n{strict.replace('slow', 'slwo')}\n"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("evaluate: {protocols: [mariotte2025]}\n", r"mine.yaml: evaluate.protocols: mariotte2025 evaluates pooled"),
        ("extract: {frames: false}\n", r"mine.yaml: train.poolings: encode_then_pool needs frames"),
        ("extract: {segment_s: 1.0, segments: a.csv}\n", r"mine.yaml: extract: give segment_s or segments"),
    ],
)
def test_load_config_conflict_error_is_short(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(written(tmp_path, MINIMAL + text))
    assert "kind" not in str(caught.value)


def test_load_config_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config(tmp_path / "none.yaml")


def test_load_config_folder_without_config_raises(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder without config.yaml; give a run folder or a YAML file"):
        load_config(tmp_path)


def test_load_config_binary_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(path)


def test_load_config_overrides_nested_keys_and_validates(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    config = load_config(path, ["train.latents=128", "extract.layers=[1, 2]", "name=other"])
    assert (config.train.latents, config.extract.layers, config.name) == (128, (1, 2), "other")
    with pytest.raises(ConfigError, match="did you mean latents"):
        load_config(path, ["train.latent=64"])
    with pytest.raises(ConfigError, match=r"key\.sub=VALUE"):
        load_config(path, ["train.latents"])
    with pytest.raises(ConfigError, match="'name' is not a section"):
        load_config(path, ["name=x", "name.sub=1"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.seeds=[1]", "train.latents=1"], r"^--set train.latents=1: train.latents"),
        (["train.latent=3"], r"^--set train.latent=3: unknown key 'train.latent'; did you mean latents\?"),
        (["train.preset=defualt"], r"^--set train.preset=defualt: train.preset: no preset 'defualt'"),
        (["train.latent=3", "evaluate.strict.folds=0"], r"^--set train.latent=3 --set evaluate.strict.folds=0: "),
        (["train.latents"], r"^--set wants key\.sub=VALUE"),
    ],
)
def test_load_config_error_names_the_override_not_the_file(tmp_path: Path, overrides: list[str], told: str) -> None:
    path = written(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(path, overrides)
    assert str(path) not in str(caught.value)


def test_load_config_error_of_invalid_file_names_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "trian: {}\n")
    with pytest.raises(ConfigError, match=rf"^{path}: unknown key 'trian'"):
        load_config(path, ["train.latents=128"])


def test_load_config_resolves_paths_against_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "model: ./tiny\ncorpus: {kind: fsdd, root: '${DIGITS:-digits}'}\nfactors: {table: mine.csv}\n"
    config = load_config(written(tmp_path, text))
    assert config.corpus.root == tmp_path / "digits"
    assert config.model == str(tmp_path / "tiny")
    assert config.factors.table == tmp_path / "mine.csv"
    monkeypatch.setenv("DIGITS", "/elsewhere")
    assert load_config(written(tmp_path, text)).corpus.root == Path("/elsewhere")


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("examples/*.yaml")), ids=lambda p: p.name)
def test_load_config_accepts_every_example(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSDD", "recordings")
    assert isinstance(load_config(path), RunConfig)


def test_run_config_defaults_equal_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n")[1].split("```")[0]
    documented = yaml.safe_load(block)
    default = RunConfig(name="my-run", corpus=documented["corpus"]).model_dump(mode="json")
    assert {**documented, "corpus": None} == {**default, "corpus": None}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my config.yaml", "my-config"),
        ("größe (2).yaml", "größe-2"),
        ("...yaml", "run"),
        ("a" * 200 + ".yaml", "a" * 100),
    ],
)
def test_load_config_names_a_run_after_any_file(tmp_path: Path, name: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(MINIMAL)
    assert load_config(path).name == expected


@pytest.mark.parametrize("name", ["..", ".", "-x", ".hidden", "a b", "a" * 101])
def test_load_config_refuses_names_that_are_no_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name: got"):
        load_config(written(tmp_path, f"name: '{name}'\n{MINIMAL}"))


def test_load_config_expands_home_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = (
        "model: ~/m\ncorpus: {kind: manifest, table: ~/t.csv, root: ~/r}\nfactors: {table: ~/f.csv}\n"
        "extract: {store: ~/acts, segments: ~/s.csv}\n"
    )
    written(tmp_path, text)
    config = load_config("~/mine.yaml")
    assert config.model == str(tmp_path / "m")
    assert (config.corpus.table, config.corpus.root) == (tmp_path / "t.csv", tmp_path / "r")
    assert config.factors.table == tmp_path / "f.csv"
    assert (config.extract.store, config.extract.segments) == (str(tmp_path / "acts"), tmp_path / "s.csv")
    assert parse_config({"corpus": {"kind": "folder", "root": "~/r"}, "name": "x"}).corpus.root == tmp_path / "r"
    remote = load_config("~/mine.yaml", ["extract.store=s3://bucket/~x"])
    assert remote.extract.store == "s3://bucket/~x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus: {kind: folder, root: ~nosuchuser/x}", "corpus.root: '~nosuchuser/x': no home folder is known"),
        ("corpus: {kind: synth}\nmodel: ~nosuchuser", "model: '~nosuchuser': no home folder is known"),
        ("corpus: {kind: synth}\nextract: {store: ~nosuchuser/a}", "'~nosuchuser/a': no home folder is known"),
        ("corpus: {kind: synth}\nextract: {segment_s: .inf}", "extract.segment_s: .*finite number"),
        ("corpus: {kind: synth}\nextract: {window_s: .nan}", "extract.window_s: .*(finite|greater)"),
        ("corpus: {kind: synth}\nevaluate: {strict: {seeds: 1000000}}", "evaluate.strict.seeds: .* equal to 1000"),
        ("corpus: {kind: synth}\nevaluate: {strict: {folds: 1000000}}", "evaluate.strict.folds: .* equal to 1000"),
        ("corpus: {kind: synth}\ntrain: {latents: 100000000000000}", "train.latents: .* equal to 134217728"),
        ("corpus: {kind: synth}\ntrain: {seeds: [99999999999]}", "train.seeds.0: .* less than 4294967296"),
        (
            "corpus: {kind: synth}\ntrain: {seeds: [12345678901234567890123]}",
            "the number 12345678901234567890... is too",
        ),
        ("corpus: {kind: synth}\ntrain: {layers: [-1]}", "train.layers.*"),
        ("corpus: {kind: synth}\nextract: {window_s: 1e-9}", "extract.window_s: .* equal to 0.1"),
        ("corpus: {kind: synth}\nextract: {window_s: 1e300}", "extract.window_s: .* equal to 3600"),
        ("corpus: {kind: synth}\nextract: {segment_s: 1e-12}", "extract.segment_s: .* equal to 0.01"),
        ("corpus: {kind: synth}\nextract: {overlap_s: 31}", "overlap_s is 31; it must be below window_s"),
        ("corpus: {kind: synth}\nextract: {store: 'file:/one-slash'}", "an address has two slashes .* file://"),
        ("corpus: {kind: synth}\nextract: {store: 's3:bucket/x'}", "an address has two slashes .* s3://"),
        ("corpus: {kind: synth, duration_s: .inf}", "corpus.duration_s.*finite"),
        ("corpus: {kind: synth}\nsplits: {seed: 1, seed: 2}", "the key 'seed' is given twice"),
        ("corpus: {kind: synth}\nsplits: {test_groups: [010]}", "010 begins with 0"),
        ("corpus: {kind: synth}\n1: 2", "1"),
        ("corpus: {kind: synth}\n[a]: 2", "unhashable key"),
        ("corpus: {kind: [synth]}", "no corpus kind"),
        ("corpus: {kind: synth}\ntrain: {presets: {mine: {unit_norm: maybe}}}", "unit_norm"),
    ],
)
def test_load_config_refuses_hostile_values(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, f"{text}\n"))


def test_load_config_reads_no_as_false(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, f"{MINIMAL}factors: {{egemaps: no}}\n")).factors.egemaps is False
    with pytest.raises(ConfigError, match=r"--set 'splits.test_groups=\[010\]': .* 010 begins with 0"):
        load_config(written(tmp_path, MINIMAL), ["splits.test_groups=[010]"])
    with pytest.raises(ConfigError, match="no setting is 2000 sections deep"):
        load_config(written(tmp_path, MINIMAL), ["a." * 2000 + "b=1"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("corpus: {kind: synth}\n\ntrain:\n  latents: 64\n  seeds: [0, -1]\n", 5),
        ("corpus: {kind: synth}\ntrain:\n  latent: 64\n", 3),
        ("model: x\ncorpus:\n  kind: folder\n", 2),
        ("corpus:\n  kind: folder\n  root: ~nosuchuser/x\n", 3),
        ("name: a\ncorpus:\n  kind: synth\n  singers: 0\n", 4),
        ("corpus: {kind: synth}\ndevice: gpu\n", 2),
        ("corpus: {kind: synth}\ntrian: {}\n", 2),
        ("name: a b\ncorpus: {kind: synth}\n", 1),
        ("corpus: {kind: synth}\nsplits:\n  valid: 0.6\n  test: 0.6\n", 2),
    ],
)
def test_load_config_error_names_the_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=rf"\(line {line}\)$"):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("corpus:\n  kind:folder\n", r"line 2: write a blank after the colon \('kind: folder'\); corpus: got"),
        ("corpus:\n  kind:folder\n  root: x\n", r"line 3, column 7: .*; line 2: write a blank .*\('kind: folder'\)$"),
        ("corpus: {kind:folder, root: x}\n", r"line 1: write a blank .*\('kind: folder'\); corpus.kind is missing"),
        ("name:x\n", r"must hold `key: value` lines, got 'name:x'; line 1: write a blank .*\('name: x'\)"),
        ("corpus:\n", "corpus: got nothing; give `kind: ...`"),
        ("corpus: {kind: synth}\nextract:\n", r"extract: got nothing; give `key: value` lines under it, or remove it"),
        ("corpus: {kind: folder, root: }\n", r"corpus.root: give a path; got nothing"),
        ("corpus: {kind: synth}\nmax_set_aside: 50\n", r"got 50; .* equal to 1; 50 % is 0.5 \(line 2\)"),
        ("corpus: {kind: synth}\nmax_set_aside: 12.5%\n", r"got '12.5%'; .*; 12.5 % is 0.125"),
        ("corpus: {kind: synth}\ntrain: {sparsities: [0.5, 95]}\n", "sparsities.1: got 95; .*; 95 % is 0.95"),
        ("corpus: {kind: synth}\nevaluate: {strict: {folds: 2000}}\n", r"equal to 1000 \(line 2\)$"),
    ],
)
def test_load_config_error_says_what_to_write(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "modle: x\ncorpus: {kind: synht}\n",
            r"unknown key 'modle'.* \(line 1\); corpus.kind: no corpus kind 'synht'.* \(line 2\)$",
        ),
        ("max_set_aside: 2\ncorpsu: {}\n", r"unknown key 'corpsu'; did .* \(line 2\); .*'corpus' is missing"),
        ("corpus: {knd: folder, root: x}\n", r"unknown key corpus.knd; did you mean kind\? \(line 1\)$"),
        ("corpus: {kind: folder, rot: x}\n", "unknown key corpus.rot; did you mean root.*; corpus.root is missing"),
        (
            "corpus: {kind: fsdd, takes: 1}\ntrain: {presets: [a]}\ndevice: gpu\nreport: {clips: 0}\n",
            r"corpus.root is missing .*\(line 1\); device: got 'gpu'.*\(line 3\); .*; and 1 other problem$",
        ),
    ],
)
def test_load_config_reports_all_problems_misspelt_keys_first(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(written(tmp_path, text))


def test_load_config_asks_for_lists_and_utf8(tmp_path: Path) -> None:
    text = "corpus: {kind: folder, root: r, include: '*.wav'}\n"
    with pytest.raises(ConfigError, match=r"corpus.include: got '\*.wav'; give a list, e.g. \['\*.wav'\] \(line 1\)"):
        load_config(written(tmp_path, text))
    (tmp_path / "latin.yaml").write_bytes("corpus: {kind: synth}\nreport: {title: Größe}\n".encode("cp1252"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: line 2 is not UTF-8; save it as UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_load_config_bounds_the_grid(tmp_path: Path) -> None:
    seeds = list(range(5001))
    with pytest.raises(ConfigError, match=r"train: 10,002 SAEs per layer; at most 10,000"):
        load_config(written(tmp_path, f"{MINIMAL}train: {{seeds: {seeds}, sparsities: [0.9, 0.95]}}\n"))


def test_load_config_accepts_a_drive_letter_as_a_path(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, f"{MINIMAL}extract: {{store: 'C:/acts'}}\n")).extract.store == "C:/acts"
