//! What a reboot makes of a written-down machine.

use super::{Model, Result};

/// Command line, running kernel and drivers become what the boot configuration says.
pub fn predict(_model: &dyn Model) -> Result<()> {
    Ok(())
}
