//! Configuration: TOML file < environment < `--set`, resolved once into immutable values.
