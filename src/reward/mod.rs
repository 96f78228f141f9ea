//! From a judge's text to a reward: verdicts, the format penalty, and joining pairs by identity.
