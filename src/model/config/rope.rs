//! Rotary positions in config.json, in both spellings: `rope_theta` with `rope_scaling`, and transformers 5's `rope_parameters`.
//!
//! transformers takes `rope_scaling` whole where it is not empty, else `rope_parameters`; a base that is not in there comes
//! from `rope_theta`, else it is 10,000. What its versions would read differently is refused.

use serde_json::{Map, Value};

use super::keys::{Keys, short};
use crate::model::rope::{Llama3, Rope, RopeScaling, Yarn};

/// θ where config.json gives none.
const THETA: f64 = 10_000.0;

const NEW: &str = "rope_parameters.";
const OLD: &str = "rope_scaling.";

/// The rotary positions of a config.json whose model was trained on `trained` positions. `notes` gets what is read as
/// transformers reads it and may surprise.
pub fn read_rope(top: Keys<'_>, trained: usize, notes: &mut Vec<String>) -> Result<Rope, String> {
    let none = Map::new();
    let of = |key: &'static str, prefix: &'static str| {
        let object = top.object(key)?.filter(|object| !object.is_empty());
        Ok::<_, String>(object.map(|object| Keys::new(object, prefix)))
    };
    let (old, new) = (of("rope_scaling", OLD)?, of("rope_parameters", NEW)?);
    let keys = old.or(new).unwrap_or(Keys::new(&none, NEW));
    let theta = theta(top, keys)?;
    let scaling = read_scaling(top, keys, trained)?;
    if let (Some(_), Some(new)) = (old, new) {
        let other = read_scaling(top, new, trained)?;
        if other != RopeScaling::Default && other != scaling {
            return Err("`rope_scaling` and `rope_parameters` say different things: remove one".into());
        }
        if let Some(ignored) = new.number("rope_theta")?.filter(|other| *other != theta) {
            notes.push(format!(
                "`rope_scaling` stands beside `rope_parameters`, and transformers takes it alone: the base of RoPE is {theta}, \
                 and not the {ignored} of `rope_parameters.rope_theta`; if that is meant, move it into `rope_scaling`"
            ));
        }
    }
    note_unused(keys, &scaling, notes)?;
    if matches!(scaling, RopeScaling::Yarn(_)) && theta <= 1.0 {
        return Err(format!("`rope_theta` must be above 1 for yarn, got {theta}"));
    }
    Ok(Rope { theta, scaling })
}

fn theta(top: Keys<'_>, keys: Keys<'_>) -> Result<f64, String> {
    let theta = match (top.number("rope_theta")?, keys.number("rope_theta")?) {
        (Some(outer), Some(inner)) if outer != inner => {
            let name = keys.name("rope_theta");
            return Err(format!(
                "`rope_theta` is {outer} and {name} is {inner}: transformers 4 takes the one and 5 the other; remove one"
            ));
        }
        (outer, inner) => inner.or(outer).unwrap_or(THETA),
    };
    // The powers are taken in f32.
    if theta as f32 > 0.0 && (theta as f32).is_finite() {
        return Ok(theta);
    }
    Err(format!("`rope_theta` must be a positive number, got {theta}"))
}

fn read_scaling(top: Keys<'_>, keys: Keys<'_>, trained: usize) -> Result<RopeScaling, String> {
    for (name, partial) in [
        ("`partial_rotary_factor`".to_string(), top.number_or_null("partial_rotary_factor")?),
        (keys.name("partial_rotary_factor"), keys.number_or_null("partial_rotary_factor")?),
    ] {
        if let Some(partial) = partial.filter(|partial| *partial != 1.0) {
            return Err(format!("{name} is {partial}: Qwen3 rotates whole heads; remove it"));
        }
    }
    match rope_type(keys)? {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: factor(keys)? }),
        "yarn" => Ok(RopeScaling::Yarn(read_yarn(top, keys, trained)?)),
        "llama3" => Ok(RopeScaling::Llama3(read_llama3(top, keys, trained)?)),
        kind @ ("dynamic" | "longrope" | "su") => Err(format!(
            "rope type `{kind}` is not supported: its angles depend on the length of the text, so tokens that are cached would \
             have to be rotated again; `default`, `linear`, `yarn` and `llama3` are computed"
        )),
        other => Err(format!(
            "rope type `{}` is not supported: `default`, `linear`, `yarn` and `llama3` are computed",
            short(&other.into())
        )),
    }
}

/// `rope_type`, or `type` as it was called once.
fn rope_type<'a>(keys: Keys<'a>) -> Result<&'a str, String> {
    match (keys.text("rope_type")?, keys.text("type")?) {
        (Some(now), Some(once)) if now != once => {
            Err(format!("{} is {now:?} and {} is {once:?}: remove one", keys.name("rope_type"), keys.name("type")))
        }
        (now, once) => Ok(now.or(once).unwrap_or("default")),
    }
}

fn factor(keys: Keys<'_>) -> Result<f64, String> {
    let name = keys.name("factor");
    let factor = keys.number("factor")?.ok_or_else(|| format!("{name} is missing"))?;
    at_least_one(&name, factor)
}

fn at_least_one(name: &str, factor: f64) -> Result<f64, String> {
    if factor >= 1.0 && (factor as f32).is_finite() {
        return Ok(factor);
    }
    Err(format!("{name} must be 1 or more, got {factor}"))
}

/// A positive number; `otherwise` where there is none, or null, or 0, as transformers reads its optional keys.
fn positive(keys: Keys<'_>, key: &str, otherwise: f64) -> Result<f64, String> {
    match keys.number_or_null(key)?.unwrap_or(0.0) {
        0.0 => Ok(otherwise),
        x if x > 0.0 => Ok(x),
        x => Err(format!("{} must be positive, got {x}", keys.name(key))),
    }
}

/// Positions before scaling: inside, or at the top as older files have it, or else those of the model.
fn original_context(top: Keys<'_>, keys: Keys<'_>, trained: usize) -> Result<f64, String> {
    const KEY: &str = "original_max_position_embeddings";
    let whole = |keys: Keys<'_>| match keys.number_or_null(KEY)? {
        Some(x) if x < 1.0 || x.fract() != 0.0 => {
            Err(format!("{} must be a whole number above 0, got {x}", keys.name(KEY)))
        }
        x => Ok(x),
    };
    match (whole(top)?, whole(keys)?) {
        (Some(outer), Some(inner)) if outer != inner => {
            Err(format!("`{KEY}` is {outer} and {} is {inner}: remove one", keys.name(KEY)))
        }
        (outer, inner) => Ok(outer.or(inner).unwrap_or(trained as f64)),
    }
}

fn read_yarn(top: Keys<'_>, keys: Keys<'_>, trained: usize) -> Result<Yarn, String> {
    let original_context = original_context(top, keys, trained)?;
    // A factor of null is the quotient of both contexts; one that is missing is an error, as in transformers.
    let factor = if keys.map.get("factor").is_some_and(Value::is_null) {
        at_least_one(
            "`max_position_embeddings` ÷ `original_max_position_embeddings`",
            trained as f64 / original_context,
        )?
    } else {
        factor(keys)?
    };
    let (mscale, mscale_all_dim) = (keys.number_or_null("mscale")?, keys.number_or_null("mscale_all_dim")?);
    let attention_factor = match keys.number_or_null("attention_factor")? {
        Some(given) => given,
        None => Yarn::default_attention_factor(factor, mscale, mscale_all_dim),
    };
    if !(attention_factor as f32 > 0.0 && (attention_factor as f32).is_finite()) {
        return Err(format!("{} must be positive, got {attention_factor}", keys.name("attention_factor")));
    }
    let (beta_fast, beta_slow) = (positive(keys, "beta_fast", 32.0)?, positive(keys, "beta_slow", 1.0)?);
    if beta_fast < beta_slow {
        let (fast, slow) = (keys.name("beta_fast"), keys.name("beta_slow"));
        return Err(format!("{fast} ({beta_fast}) must not be below {slow} ({beta_slow})"));
    }
    let truncate = keys.flag("truncate")?.unwrap_or(true);
    Ok(Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate })
}

fn read_llama3(top: Keys<'_>, keys: Keys<'_>, trained: usize) -> Result<Llama3, String> {
    let needed = |key: &str| match keys.number(key)? {
        Some(x) if x > 0.0 => Ok(x),
        Some(x) => Err(format!("{} must be positive, got {x}", keys.name(key))),
        None => Err(format!("{} is missing", keys.name(key))),
    };
    let (low_freq_factor, high_freq_factor) = (needed("low_freq_factor")?, needed("high_freq_factor")?);
    if high_freq_factor <= low_freq_factor {
        let (high, low) = (keys.name("high_freq_factor"), keys.name("low_freq_factor"));
        return Err(format!("{high} ({high_freq_factor}) must be above {low} ({low_freq_factor})"));
    }
    let original_context = original_context(top, keys, trained)?;
    Ok(Llama3 { factor: factor(keys)?, low_freq_factor, high_freq_factor, original_context })
}

/// Keys that this type of scaling does not read: transformers passes over them, and says so.
fn note_unused(keys: Keys<'_>, scaling: &RopeScaling, notes: &mut Vec<String>) -> Result<(), String> {
    let read: &[&str] = match scaling {
        RopeScaling::Default => &[],
        RopeScaling::Linear { .. } => &["factor"],
        RopeScaling::Yarn(_) => &[
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
        RopeScaling::Llama3(_) => {
            &["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"]
        }
    };
    for (key, value) in keys.map {
        let name = keys.name(key);
        if value.is_object() {
            return Err(format!("{name} is an object: Qwen3 has one RoPE for all layers, so give its keys without it"));
        }
        let known = ["rope_type", "type", "rope_theta", "partial_rotary_factor"].contains(&key.as_str());
        if !known && !read.contains(&key.as_str()) && !value.is_null() {
            notes.push(format!("{name} is not used by this type of RoPE"));
        }
    }
    Ok(())
}
