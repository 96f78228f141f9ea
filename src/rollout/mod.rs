//! Generation: sequences, pages, scheduler, engine.
