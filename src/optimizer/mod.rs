//! AdamW over the parameter arena: schedule and clipping.
