//! One file per subcommand of `patarm-train`.
