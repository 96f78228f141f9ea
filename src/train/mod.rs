//! The training loops: SFT and RL.
