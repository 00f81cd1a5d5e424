//! The lab's own command line.

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Words of scenarios' names.
    pub words: Vec<String>,
    /// Everything, not only what runs every day.
    pub all: bool,
    /// Nothing.
    pub off: bool,
    /// Only the names.
    pub list: bool,
    /// Machines go on running.
    pub keep: bool,
    /// How often the power is cut.
    pub cuts: u32,
    /// An interrupted run is gone on with: what has passed is not run again, cuts that were taken are gone on with.
    pub resume: bool,
    /// What the moments of the cuts are drawn from.
    pub seed: u64,
}

impl Options {
    /// Reads it; what `cargo test` passes to every test program and means nothing here is passed over.
    pub fn read(arguments: &[String]) -> Options {
        let wish = std::env::var("VFIO_PROVISION_LAB").unwrap_or_default();
        let mut options = Options { all: wish == "all", off: wish == "off", cuts: 10, seed: 1, ..Options::default() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut number = || rest.next().and_then(|n| n.parse().ok()).expect("a number after it");
            match argument.as_str() {
                "--all" => options.all = true,
                "--list" => options.list = true,
                "--resume" => options.resume = true,
                "--keep" => options.keep = true,
                "--cuts" => options.cuts = number() as u32,
                "--seed" => options.seed = number(),
                "--test-threads" | "--skip" | "--format" | "--color" => {
                    rest.next();
                }
                flag if flag.starts_with('-') => {}
                word => options.words.push(word.to_string()),
            }
        }
        options
    }

    /// Is this scenario asked for?
    pub fn wants(&self, name: &str, everyday: bool) -> bool {
        if self.words.is_empty() { everyday || self.all } else { self.words.iter().any(|word| name.contains(word)) }
    }
}
