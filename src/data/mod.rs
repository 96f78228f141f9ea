//! Preference pairs, dataset formats, judge prompts, packing and the resumable order of examples.
