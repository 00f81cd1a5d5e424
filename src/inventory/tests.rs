//! Whole inventories, from files to variables.
