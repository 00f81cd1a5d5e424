use super::*;

const WIN8_DUMP: &str = include_str!("../../../../tests/cases/seed/win8.dump.xml");
const WIN7_DUMP: &str = include_str!("../../../../tests/cases/seed/win7.dump.xml");

fn domain(text: &str) -> Element {
    xml::parse(text).unwrap()
}

fn text(xml: &str, options: Options) -> String {
    let imported = import(&domain(xml), options).unwrap();
    yaml(&imported.params, 0, &Comments::new())
}

#[test]
fn the_seeds_guests() {
    for dump in [WIN8_DUMP, WIN7_DUMP] {
        println!("{}", text(dump, Options::default()));
        println!("{}", text(dump, Options { short: true }));
        lossless(&domain(dump)).unwrap();
    }
}
