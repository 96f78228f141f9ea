//! Rows whose two responses have names of their own: Math-Step-DPO, Code-Preference-Pairs.

use super::super::Message;
use super::super::fields::{Object, field, text};
use super::super::turns::prompt_of;
use super::Sides;

/// `initial_reason_steps` ends with "Step k:"; the full responses continue from there.
pub(super) fn math_step_dpo(row: &Object) -> Result<Sides, String> {
    let steps = text(row, "initial_reason_steps")?;
    let side = |name| {
        let full = text(row, name)?;
        if full.trim().is_empty() {
            return Err(format!("{name}: the response is empty"));
        }
        if !steps.is_empty() && full.starts_with(steps) {
            return Err(format!("{name}: repeats initial_reason_steps"));
        }
        Ok(format!("{steps}{full}"))
    };
    let (chosen, rejected) = (side("full_chosen")?, side("full_rejected")?);
    Ok(Sides::new(prompt_of(field(row, "prompt")?, "prompt")?, chosen, rejected))
}

/// `instruction` is one line for all rows ("You are a coding assistant"); the request is `input`.
pub(super) fn code_preference(row: &Object) -> Result<Sides, String> {
    let (chosen, rejected) = (text(row, "accepted")?, text(row, "rejected")?);
    Ok(Sides::new(vec![Message::user(text(row, "input")?)], chosen, rejected))
}
