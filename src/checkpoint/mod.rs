//! Run state on disk: manifest, save, load, export.
