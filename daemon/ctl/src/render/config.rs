//! `ringbeat config check`, when all is well.

use std::path::Path;

use ringbeat_config::Config;

pub(crate) fn config(config: &Config, path: &Path) -> String {
    let cluster = config.cluster();
    let own = config.own();
    format!(
        "{}: ok: cluster {}, version {}, nodes {}, links {}, this is node {} (id {})\n",
        path.display(),
        cluster.name(),
        cluster.version(),
        config.nodes().len(),
        config.links().len(),
        own.name(),
        own.id(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_takes_one_line() {
        let parsed = Config::parse(Config::example(), "example.toml", Some("n2")).expect("a good example");
        assert_eq!(
            config(&parsed, Path::new("example.toml")),
            "example.toml: ok: cluster demo, version 1, nodes 3, links 2, this is node n2 (id 2)\n"
        );
    }
}
