//! Tests of the settings of a run: sources, refusals, and the file that explains itself.

use std::ffi::OsString;

use toml::Value;

use super::Settings;
use crate::setting::{Assignment, Key, Of, Rule, Section, Valid, commented, resolve};

fn resolved(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Result<Valid<Settings>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let set: Vec<_> = set.iter().map(|s| Assignment::set(s).unwrap()).collect();
    resolve(&Settings::default(), Some(&path), environment, &set).map_err(|e| e.to_string())
}

/// The refusal of one assignment.
#[track_caller]
fn refused(set: &str) -> String {
    resolved("", &[], &[set]).map(|_| format!("{set} passes")).unwrap_err()
}

#[test]
fn later_sources_win_and_everything_else_keeps_its_default() {
    let file = "[rl]\nsteps = 1\nrollouts = 4\nlearning_rate = 1\n[data]\ntrain = [\"a.jsonl\"]";
    let settings = resolved(file, &[("PATARM_CFG_RL__STEPS", "2"), ("HOME", "/")], &["rl.steps=3", "run.out=x y"]);
    let settings = settings.unwrap();
    assert_eq!((settings.rl.steps, settings.rl.rollouts, settings.rl.learning_rate), (3, 4, 1.0));
    assert_eq!((settings.run.out.as_str(), &settings.data.train), ("x y", &vec!["a.jsonl".to_string()]));
    assert_eq!(settings.rl.adamw, Settings::default().rl.adamw);
    // An inline table sets what it names and leaves the rest of its section alone.
    let settings = resolved("[rl]\nsteps = 7", &[], &["rl={rollouts=3, adamw={beta1=0.5}}"]).unwrap();
    assert_eq!((settings.rl.steps, settings.rl.rollouts, settings.rl.adamw.beta1), (7, 3, 0.5));
    assert_eq!(settings.rl.adamw.weight_decay, 0.0);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    let message = resolved("[rl]\n\nlearning_rat = 1e-6", &[], &[]).unwrap_err();
    assert!(
        message.contains("config.toml:3: unknown key `rl.learning_rat`: did you mean `learning_rate`"),
        "{message}"
    );
    assert!(refused("rl.adamw.betaone=1").contains("did you mean `beta1`"));
    assert!(refused("rl.steps.x=1").contains("there are no keys below `rl.steps`"));
    assert!(refused("rl=3").contains("`rl` is a section, not a key: its keys are steps, "));
    let message = resolved("", &[("PATARM_CFG_SFTT__STEPS", "1")], &[]).unwrap_err();
    assert!(message.contains("PATARM_CFG_SFTT__STEPS") && message.contains("`sft`"), "{message}");
    let message = resolved("\"rl.steps\" = 3", &[], &[]).unwrap_err();
    assert!(message.contains("config.toml:1: unknown key `rl.steps`"), "{message}");
}

#[test]
fn a_value_is_refused_with_its_key_its_line_what_was_expected_and_what_came() {
    for (file, words) in [
        (
            "[rl]\nsteps = \"many\"",
            ["config.toml:2", "`rl.steps`", "a whole number from 1", "the string \"many\"", "300"],
        ),
        ("[rl]\nsteps = -1", ["config.toml:2", "`rl.steps`", "from 1 to 1000000000", "got -1", "default is 300"]),
        ("\n[rl]\naggregation = \"median\"", ["config.toml:3", "`rl.aggregation`", "token_mean", "dr_grpo", "median"]),
        ("[rl]\nsteps = 99999999999999999999", ["config.toml:2", "`rl.steps`: expected", "from 1", "got 1e20", ""]),
        (
            "[rl.policy]\nclip_low = -0.5",
            ["config.toml:2", "`rl.policy.clip_low`", "from 0.0 to 1.0", "got -0.5", "0.2"],
        ),
        ("[run]\nout = 3", ["config.toml:2", "`run.out`", "expected text", "got 3", ""]),
        ("rl = 3", ["config.toml:1", "`rl` is a section", "steps", "", ""]),
        ("[rl]\nsteps = 3\nsteps = 4", ["config.toml:3", "not TOML", "duplicate key", "`steps = 4`", ""]),
        ("[rl]\nsteps = '''\n\n", ["config.toml:2", "not TOML", "`steps = '''`", "", ""]),
        ("[rl]\nsteps = ", ["config.toml:2", "not TOML", "`steps =`", "", ""]),
        ("[rl]\ndecay = 2024-01-01", ["config.toml:2", "`rl.decay`", "one of constant", "datetime", ""]),
    ] {
        let message = resolved(file, &[], &[]).map(|_| "passes").unwrap_err();
        words.iter().for_each(|word| assert!(message.contains(word), "{file}: {word:?} is missing in: {message}"));
    }
    for set in ["rl.steps=0", "rl.aggregation=median", "rl.learning_rate=NaN", "data.train=a.jsonl", "data.skip_bad=1"]
    {
        let (key, value) = set.split_once('=').unwrap();
        let message = refused(set);
        for word in [&format!("--set {set}: `{key}`: expected"), value] {
            assert!(message.contains(word), "{set}: {message}");
        }
    }
    let message = resolved("", &[("PATARM_CFG_RL__STEPS", "x")], &[]).unwrap_err();
    assert!(message.starts_with("PATARM_CFG_RL__STEPS: `rl.steps`: expected"), "{message}");
    let message = resolved("", &[("PATARM_CFG_RL__STEPS", "1"), ("PATARM_CFG_rl__steps", "2")], &[]).unwrap_err();
    assert!(message.contains("`rl.steps` is set by PATARM_CFG_RL__STEPS too"), "{message}");
}

#[cfg(unix)]
#[test]
fn what_is_not_text_is_refused_where_it_is_ours() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
    let environment = |name: &[u8], value: &[u8]| {
        let variables = [(bytes(name), bytes(value))];
        resolve(&Settings::default(), None, variables.into_iter(), &[]).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(environment(b"OTHER\xff", b"\xff"), Ok(()));
    assert!(
        environment(b"PATARM_CFG_RL__STEPS", b"\xff")
            .unwrap_err()
            .contains("PATARM_CFG_RL__STEPS: the variable's value")
    );
    assert!(environment(b"PATARM_CFG_\xff", b"1").unwrap_err().contains("the variable's name is not UTF-8"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, b"[rl]\nsteps = 3 # \xff").unwrap();
    let file = |path| resolve(&Settings::default(), Some(path), std::iter::empty(), &[]).unwrap_err().to_string();
    assert!(file(&path).contains("config.toml:2: is not UTF-8"));
    assert!(file(folder.path()).contains("cannot be read"));
    assert!(file(std::path::Path::new("/dev/zero")).contains("no file of settings"));
}

#[test]
fn numbers_that_wreck_a_run_are_refused_by_name() {
    for set in [
        "run.patience=0",
        "run.keep_checkpoints=0",
        "run.threads=-1",
        "run.seed=-1",
        "model.context=0",
        "model.init=huge",
        "data.flip=7",
        "data.flip=-0.1",
        "data.task=",
        "sft.steps=0",
        "sft.examples_per_step=0",
        "sft.learning_rate=nan",
        "sft.learning_rate=0",
        "sft.learning_rate=-1e-5",
        "sft.learning_rate=1e30",
        "sft.learning_rate=inf",
        "sft.floor=1.5",
        "sft.max_length=0",
        "sft.micro_batch_tokens=0",
        "sft.target=other",
        "sft.adamw.beta1=1.0",
        "sft.adamw.beta2=1.0",
        "sft.adamw.beta2=0.99999999999",
        "sft.adamw.beta1=-0.1",
        "sft.adamw.epsilon=0",
        "sft.adamw.epsilon=1e-60",
        "sft.adamw.weight_decay=-0.1",
        "sft.adamw.clip_norm=-1",
        "sft.decay=cosin",
        "rl.rollouts=1",
        "rl.rollouts=0",
        "rl.rollouts=65",
        "rl.rollouts=1000000000000000000",
        "rl.pairs_per_step=0",
        "rl.updates_per_step=0",
        "rl.temperature=0",
        "rl.temperature=-1",
        "rl.temperature=1e-40",
        "rl.max_running=9000000000000000000",
        "rl.max_new_tokens=0",
        "rl.policy.clip_low=-0.5",
        "rl.policy.clip_low=1.1",
        "rl.policy.clip_high=-0.1",
        "rl.policy.kl_coefficient=-0.1",
        "rl.policy.kl=k4",
        "rl.resample=-1",
        "rl.samples_per_step=1e3",
        "reward.low=nan",
        "reward.high=-1",
        "reward.threshold=-1",
        "reward.epsilon=0",
        "reward.penalty.malformed=0.1",
        "reward.verdict.min=nan",
        "reward.verdict.max=1001",
        "reward.constant=0",
        "reward.verdict.max_rubrics=-1",
        "eval.pairs=0",
    ] {
        let key = set.split_once('=').unwrap().0;
        let message = refused(set);
        assert!(message.contains(&format!("`{key}`")) && message.contains("--set"), "{set}: {message}");
    }
}

#[test]
fn what_must_hold_between_keys_is_refused_with_all_of_them() {
    for (set, words) in [
        (
            &["rl.pairs_per_step=2", "rl.updates_per_step=3"][..],
            ["`rl.updates_per_step` = 3", "`rl.pairs_per_step` = 2"],
        ),
        (&["rl.micro_batch_tokens=6142"], ["`rl.micro_batch_tokens` = 6142", "6143 tokens"]),
        (&["reward.verdict.min=10"], ["`reward.verdict.min` = 10.0", "`reward.verdict.max` = 10.0"]),
        (&["reward.verdict.min=1.2", "reward.verdict.max=2.8"], ["whole numbers", "decimals = true"]),
        (&["sft.adamw.clip_norm=1e-300"], ["`sft.adamw.clip_norm` = 1e-300", "`sft.adamw.epsilon` = 1e-8"]),
        (&["rl.adamw.clip_norm=0.5", "rl.adamw.epsilon=1"], ["`rl.adamw.clip_norm` = 0.5", "`rl.adamw.epsilon` = 1.0"]),
        (&["reward.low=2"], ["`reward.low` = 2.0", "`reward.high` = 1.4"]),
        (&["model.init=nano", "model.path=judge"], ["`model.init` = \"nano\"", "`model.path` = \"judge\""]),
        (
            &["sft.learning_rate=1", "sft.adamw.weight_decay=1"],
            ["`sft.learning_rate` = 1.0", "`sft.adamw.weight_decay` = 1.0"],
        ),
    ] {
        let message = resolved("", &[], set).map(|_| "passes").unwrap_err();
        let origin = format!("--set {}", set[0]);
        assert!(message.contains(&origin) && words.iter().all(|word| message.contains(word)), "{set:?}: {message}");
    }
}

#[test]
fn what_is_rarely_meant_is_said() {
    let notes = |set: &[&str]| resolved("", &[], set).unwrap().notes().join("\n");
    assert_eq!(notes(&[]), "");
    assert!(notes(&["rl.policy.kl=k1"]).contains("gradient has mean zero"));
    assert_eq!(notes(&["rl.policy.kl=k1", "rl.policy.kl_coefficient=0"]), "");
    assert!(notes(&["rl.aggregation=dr_grpo"]).contains("reward.advantage = none"));
    assert_eq!(notes(&["rl.aggregation=dr_grpo", "reward.advantage=none"]), "");
    assert!(notes(&["sft.steps=2"]).contains("`sft.warmup` = 20, `sft.steps` = 2"));
    assert!(refused("sft.warmup=1001").contains("`sft.warmup` = 1001, `sft.steps` = 1000: the learning rate never"));
    assert!(resolved("[sft]\nwarmup = 1001", &[], &[]).is_ok(), "a file may hold every key");
    assert!(notes(&["reward.threshold=9"]).contains("`high` is never earned"));
    assert_eq!(notes(&["judge.mode=pairwise"]), "");
    assert!(notes(&["judge.mode=pairwise", "reward.shape=constant"]).contains("a right preference is the reward, 1"));
}

/// Every key below `keys`, by its full name.
fn all(keys: &'static [Key], section: &str) -> Vec<(String, &'static Key)> {
    let name = |key: &Key| if section.is_empty() { key.name.to_string() } else { format!("{section}.{}", key.name) };
    let below = |key: &'static Key| match key.of {
        Of::Section(inner) => [vec![(name(key), key)], all(inner, &name(key))].concat(),
        Of::Value { .. } => vec![(name(key), key)],
    };
    keys.iter().flat_map(below).collect()
}

#[test]
fn every_key_has_a_doc_and_a_rule_that_its_default_obeys() {
    let keys = all(Settings::KEYS, "");
    assert!(keys.len() > 60, "{} keys", keys.len());
    let defaults = toml::Table::try_from(Settings::default()).unwrap();
    let text = commented(&Valid::<Settings>::default());
    for (name, key) in keys {
        assert!(key.doc.iter().any(|line| line.len() > 10), "{name} has no doc");
        let value = name.split('.').try_fold(&Value::Table(defaults.clone()), |value, name| value.get(name)).cloned();
        let value = value.unwrap_or_else(|| panic!("{name} has no default"));
        assert!(text.contains(&format!("# {}", key.doc[0].trim())), "{name} is not explained");
        if let Of::Value { rule, single } = key.of {
            assert!(rule.check(value, single).is_ok(), "{name}");
            assert!(text.contains(&format!("# {rule}; default ")), "{name}");
        }
    }
}

/// The words of a rule are those that the type reads: its own error lists them.
#[test]
fn words_of_rules_are_those_of_their_types() {
    let mut seen = 0;
    for (name, key) in all(Settings::KEYS, "") {
        let Of::Value { rule: Rule::OneOf(words), .. } = key.of else { continue };
        let with = |word: &str| {
            let (section, last) = name.rsplit_once('.').unwrap();
            toml::from_str::<Settings>(&format!("[{section}]\n{last} = \"{word}\""))
                .map_err(|e| e.message().to_string())
        };
        words.iter().for_each(|word| assert!(with(word).is_ok(), "{name} = {word}"));
        let listed = with("?").unwrap_err();
        assert_eq!(listed.matches('`').count() / 2 - 1, words.len(), "{name}: {listed}");
        seen += 1;
    }
    assert!(seen >= 7, "{seen} keys");
}

#[test]
fn what_is_printed_reads_back_as_the_same_settings() {
    let text = commented(&resolved("", &[], &["rl.adamw.beta2=0.999"]).unwrap());
    for line in ["beta2 = 0.999", "learning_rate = 1e-6", "# a number from 0.0 to below 1.0; default 0.95"] {
        assert!(text.lines().any(|other| other == line), "{line} is missing in: {text}");
    }
    let set = [
        "rl.adamw.beta1=0.87",
        "rl.learning_rate=3.3e-7",
        "run.out=a \"b\"\\\n[rl]",
        "data.train=[\"x\", \"y z\"]",
        "reward.verdict.decimals=true",
        "run.seed=9223372036854775807",
        "rl.temperature=0.7",
        "rl.policy.kl=k1",
        "sft.target=chosen",
        "reward.advantage=batch",
        "rl.policy.clip_high=0.28",
    ];
    for set in [&set[..], &[]] {
        let settings = resolved("", &[], set).unwrap();
        let text = commented(&settings);
        assert_eq!(resolved(&text, &[], &[]).unwrap(), settings, "{text}");
        assert_eq!(commented(&resolved(&text, &[], &[]).unwrap()), text);
        // As a run's folder keeps them.
        assert_eq!(resolved(&toml::to_string(&settings).unwrap(), &[], &[]).unwrap(), settings);
    }
}
