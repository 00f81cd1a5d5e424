use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::diag::Diagnostic;
use crate::yaml::Node;

/// A folder with these files, and its `site.yml` loaded.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        Folder(folder)
    }

    fn loader(&self) -> Loader {
        Loader::new(LoadOptions { roles_path: vec![self.0.path().join("more_roles")] })
    }

    fn load(&self) -> Result<Site, Vec<Diagnostic>> {
        self.loader().load(&[self.0.path().join("site.yml")])
    }

    fn site(&self) -> Site {
        self.load().unwrap_or_else(|errors| panic!("{}", errors.iter().map(Diagnostic::to_string).collect::<String>()))
    }

    fn errors(&self) -> Vec<String> {
        self.load().map_or_else(|errors| errors.into_iter().map(|e| e.message).collect(), |_| Vec::new())
    }
}

/// Every task of a play: title, parameters, and what is handed down to it.
fn tasks(play: &Play) -> Vec<String> {
    let mut lines = Vec::new();
    play.visit(&mut |visit| {
        let when: Vec<_> = visit.common.when.iter().map(|node| node.to_json().to_string()).collect();
        let vars: Vec<_> =
            visit.common.vars.iter().map(|(key, node)| format!("{}={}", key.name, node.to_json())).collect();
        lines.push(
            format!("{} [{}] {} {}", visit.task.title(), visit.common.tags.join(","), when.join("&"), vars.join(" "))
                .trim_end()
                .to_string(),
        );
    });
    lines
}

fn params(text: &str) -> serde_json::Value {
    let folder =
        Folder::new(&[("site.yml", &format!("- hosts: all\n  tasks:\n    - {}\n", text.replace('\n', "\n      ")))]);
    let site = folder.site();
    let mut found = json!(null);
    site.plays[0].visit(&mut |visit| found = visit.task.params.to_json());
    found
}

#[test]
fn what_is_around_a_task_is_handed_down() {
    let folder = Folder::new(&[
        ("site.yml", "- import_playbook: sub/real.yml\n  tags: site\n  when: reboot_ok\n  vars: {p: import}\n"),
        (
            "sub/real.yml",
            "
- hosts: [all, '!spare']
  tags: [play]
  vars: {p: play}
  pre_tasks:
    - import_tasks: pre.yml
      tags: imported
      when: a
      vars: {x: 1}
  roles:
    - {role: web, tags: 'r1,r2', when: b, vars: {y: 2}, port: 80}
  tasks:
    - block:
        - name: inner
          debug:
          tags: inner
          when: [d, e]
          vars: {x: 3}
      rescue:
        - fail:
      always:
        - debug:
      tags: block
      when: c
    - import_role: {name: base}
      tags: last
",
        ),
        ("sub/pre.yml", "- name: first\n  debug: msg=x\n"),
        ("sub/roles/web/tasks/main.yml", "- name: web\n  import_tasks: part.yml\n"),
        ("sub/roles/web/tasks/part.yml", "- name: part\n  debug:\n"),
        ("sub/roles/web/defaults/main.yml", "port: 8080\n"),
        ("sub/roles/web/meta/main.yml", "dependencies:\n  - role: base\n    vars: {z: 5}\n"),
        ("more_roles/base/tasks/main.yaml", "- name: base\n  ping_is_unknown: \n  debug:\n"),
    ]);
    assert_eq!(folder.errors(), ["unknown key `ping_is_unknown` in a task"]);
    fs::write(folder.0.path().join("more_roles/base/tasks/main.yaml"), "- name: base\n  debug:\n").expect("a file");
    let site = folder.site();
    let [play] = site.plays.as_slice() else { panic!("one play") };
    assert_eq!(play.hosts.value, "all,!spare");
    assert_eq!(
        tasks(play),
        [
            "first [site,play,imported] \"reboot_ok\"&\"a\" x=1",
            "base [site,play,r1,r2] \"reboot_ok\"&\"b\" y=2 port=80 z=5",
            "part [site,play,r1,r2] \"reboot_ok\"&\"b\" y=2 port=80",
            "inner [site,play,block,inner] \"reboot_ok\"&\"c\"&\"d\"&\"e\" x=3",
            "fail [site,play,block] \"reboot_ok\"&\"c\"",
            "debug [site,play,block] \"reboot_ok\"&\"c\"",
            "base [site,play,last] \"reboot_ok\"",
        ]
    );
    let vars: Vec<_> = play.vars.iter().map(|(key, node)| (key.name.as_str(), node.to_json())).collect();
    assert_eq!(vars, [("p", json!("play")), ("p", json!("import"))]);
    let roles: Vec<_> = play.all_roles().iter().map(|use_| use_.role.head.name.clone()).collect();
    assert_eq!(roles, ["base", "web"]);
}

#[test]
fn parameters_become_one_map() {
    assert_eq!(
        params("copy: content='{{ x }} y' dest=\"/a b\"\nargs: {mode: 0644}"),
        json!({"content": "{{ x }} y", "dest": "/a b", "mode": "0644"})
    );
    assert_eq!(params("debug:"), json!({}));
    assert_eq!(params("meta: flush_handlers"), json!({"action": "flush_handlers"}));
    assert_eq!(params("include_vars: dir={{ x }} name=y"), json!({"dir": "{{ x }}", "name": "y"}));
    assert_eq!(params("include_vars: \"{{ x }}.yml\""), json!({"file": "{{ x }}.yml"}));
    assert_eq!(params("set_fact: a=1 b='c d'"), json!({"a": "1", "b": "c d"}));
}

#[test]
fn handlers_get_what_their_import_says() {
    let folder = Folder::new(&[
        (
            "site.yml",
            "
- hosts: all
  handlers:
    - import_tasks: handlers.yml
      when: a
      become: true
    - name: own
      listen: [x, y]
      debug:
  tasks:
    - debug:
      notify: [restarted, own, y]
  roles: [r]
",
        ),
        ("handlers.yml", "- name: restarted\n  when: b\n  debug:\n"),
        ("roles/r/handlers/main.yml", "- name: own\n  debug:\n"),
    ]);
    let site = folder.site();
    let play = &site.plays[0];
    let [first, own] = play.handlers.as_slice() else { panic!("two handlers") };
    assert_eq!(first.common.when.iter().filter_map(Node::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(first.common.become_.become_.as_ref().and_then(Node::as_bool), Some(true));
    assert_eq!(own.listen.iter().filter_map(Node::as_str).collect::<Vec<_>>(), ["x", "y"]);
    let all: Vec<_> = play.all_handlers().iter().map(|(use_, h)| (use_.is_some(), h.title().to_string())).collect();
    assert_eq!(all, [(false, "restarted".into()), (false, "own".into()), (true, "own".into())]);
}

#[test]
fn handlers_behind_a_template_are_not_missed() {
    let include =
        "- hosts: all\n  tasks:\n    - debug:\n      notify: later\n    - include_role:\n        name: \"{{ x }}\"\n";
    assert!(Folder::new(&[("site.yml", include)]).errors().is_empty());
    let role = [
        (
            "site.yml",
            "- hosts: all\n  tasks:\n    - debug:\n      notify: [later, 'r : later', never]\n    - include_tasks: x.yml\n",
        ),
        ("x.yml", "- include_role: name=r\n"),
        ("roles/r/handlers/main.yml", "- name: later\n  debug:\n"),
    ];
    assert_eq!(Folder::new(&role).errors(), ["there is no handler `never`"]);
}

#[test]
fn roles_bring_their_variables_and_specs() {
    let folder = Folder::new(&[
        (
            "site.yml",
            "- hosts: all\n  roles: [r]\n  tasks:\n    - import_role: {name: r, tasks_from: other.yml, vars_from: os}\n",
        ),
        ("roles/r/defaults/main/10.yml", "a: 1\n"),
        ("roles/r/defaults/main/20.yml", "b: 2\n"),
        ("roles/r/vars/main.yml", "c: 3\n"),
        ("roles/r/vars/os.yml", "c: 4\n"),
        ("roles/r/tasks/main.yml", "- name: main\n  debug:\n"),
        ("roles/r/tasks/other.yml", "- name: other\n  debug:\n"),
        ("roles/r/meta/main.yml", "allow_duplicates: yes\ngalaxy_info: {author: x}\n"),
        (
            "roles/r/meta/argument_specs.yml",
            "argument_specs:\n  main: {options: {a: {type: int}}}\n  other: {options: {c: {required: true}}}\n",
        ),
    ]);
    let site = folder.site();
    let roles = site.plays[0].all_roles();
    let [main, other] = roles.as_slice() else { panic!("two: the files differ") };
    let names = |vars: &Vars| vars.iter().map(|(k, v)| format!("{}={}", k.name, v.to_json())).collect::<Vec<_>>();
    assert_eq!(names(&main.role.head.defaults), ["a=1", "b=2"]);
    assert_eq!(names(&main.role.head.vars), ["c=3"]);
    assert_eq!(names(&other.role.head.vars), ["c=4"]);
    assert!(main.role.head.allow_duplicates);
    let options = |use_: &RoleUse| use_.role.head.argument_spec.as_ref().map(|spec| spec.options[0].0.clone());
    assert_eq!((options(main), options(other)), (Some("a".into()), Some("c".into())));
    assert_eq!(tasks(&site.plays[0]), ["main []", "other []"]);
}

#[test]
fn includes_are_found_during_the_run() {
    let folder = Folder::new(&[
        ("site.yml", "- hosts: all\n  roles: [r]\n"),
        ("roles/r/tasks/main.yml", "- include_tasks: sub/one.yml\n"),
        ("roles/r/tasks/sub/one.yml", "- include_tasks: \"{{ x }}.yml\"\n- debug:\n"),
        ("roles/r/tasks/sub/near.yml", "- name: near\n  debug:\n"),
        ("roles/r/tasks/far.yml", "- name: far\n  debug:\n"),
        ("beside.yml", "- name: beside\n  debug:\n"),
        ("broken.yml", "- debgu:\n"),
        ("roles/r/files/x.conf", ""),
    ]);
    let mut loader = folder.loader();
    let site = loader.load(&[folder.0.path().join("site.yml")]).expect("loads");
    let mut include = None;
    site.plays[0].visit(&mut |visit| include = Some(visit.task.clone()));
    let one = loader.tasks_file("sub/one.yml".as_ref(), &include.expect("the include")).expect("one.yml");
    let [Item::Task(inner), _] = one.as_slice() else { panic!("two tasks") };
    for name in ["near", "far", "beside"] {
        let items = loader.tasks_file(format!("{name}.yml").as_ref(), inner).expect(name);
        assert!(matches!(items.as_slice(), [Item::Task(task)] if task.title() == name), "{name}");
    }
    for _ in 0..2 {
        let errors = loader.tasks_file("broken.yml".as_ref(), inner).expect_err("broken");
        assert_eq!(errors[0].message, "unknown module `debgu`");
        assert!(loader.tasks_file("none.yml".as_ref(), inner).is_err());
    }
    assert!(loader.role("r", &RoleFrom::default(), inner).is_ok());
    assert!(loader.role("q", &RoleFrom::default(), inner).is_err());
    assert!(inner.origin.find("files", "x.conf").is_ok_and(|path| path.ends_with("roles/r/files/x.conf")));
    assert!(inner.origin.find("files", "y.conf").is_err_and(|tried| tried.len() > 3));
}

#[test]
fn imports_that_double_come_to_an_end() {
    let mut files = vec![("site.yml".to_string(), "- hosts: all\n  tasks: [import_tasks: 0.yml]\n".to_string())];
    for level in 0..30 {
        let next = format!("- import_tasks: {}.yml\n", level + 1).repeat(2);
        files.push((format!("{level}.yml"), next));
    }
    files.push(("30.yml".to_string(), "- debug:\n".to_string()));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let errors = Folder::new(&files).errors();
    assert!(errors.iter().any(|error| error.contains("more than")), "{errors:?}");
}

#[test]
fn a_broken_role_that_includes_itself_comes_to_an_end() {
    let folder = Folder::new(&[
        ("site.yml", "- hosts: all\n  tasks: [include_role: {name: r}]\n"),
        ("roles/r/tasks/main.yml", "- include_role: {name: r}\n- nope:\n- include_tasks: main.yml\n"),
    ]);
    assert_eq!(folder.errors(), ["unknown module `nope`"]);
}

/// Playbooks that hold nearly everything, to be broken.
const WHOLE: [&str; 2] = [
    "- name: all of it
  hosts: [a, b]
  become: yes
  become_user: root
  gather_facts: no
  tags: [x, y]
  vars: {a: 1, b: [c, {d: e}]}
  vars_files: [v.yml, ['{{ x }}.yml', w.yml]]
  roles:
    - r
    - {role: r, when: a, tags: t, vars: {q: 1}}
  tasks:
    - name: first
      ansible.builtin.copy: dest=/x content=\"{{ y }} z\" mode=0644
      args: {owner: root}
      when: [a, b is defined]
      loop: \"{{ l }}\"
      loop_control: {label: x, index_var: i, loop_var: j}
      register: res
      notify: [h]
      changed_when: false
      failed_when: [res.rc != 0]
      until: res is ok
      retries: 3
      delay: 1
      no_log: true
    - block: [{debug: {msg: &m hi}}, {assert: {that: [x], fail_msg: *m}}]
      rescue: [{fail: {msg: no}}]
      always: [{meta: noop}]
      ignore_errors: true
    - import_tasks: t.yml
    - include_tasks: {file: t.yml, apply: {tags: z}}
    - import_role: {name: r}
    - set_fact: {a: 1, b: '{{ c }}'}
  handlers:
    - name: h
      listen: l
      debug: {var: x}
",
    "- import_playbook: other.yml\n- hosts: all\n  tasks: []\n",
];

const BITS: [&str; 32] = [
    "- ",
    ": ",
    "\n",
    "  ",
    "{",
    "}",
    "[",
    "]",
    "{{",
    "}}",
    "'",
    "\"",
    "&a ",
    "*a",
    "<<: ",
    "!x ",
    "hosts",
    "tasks",
    "block",
    "when",
    "copy",
    "null",
    "~",
    "7",
    "true",
    "ä",
    "\t",
    "import_tasks: t.yml",
    "name",
    "#",
    "|\n",
    "roles",
];

fn parts() -> Folder {
    Folder::new(&[
        ("v.yml", "a: 1\n"),
        ("w.yml", "b: 1\n"),
        ("t.yml", "- debug:\n"),
        ("other.yml", "- hosts: all\n"),
        ("roles/r/tasks/main.yml", "- debug:\n"),
    ])
}

#[test]
fn the_whole_playbooks_are_good() {
    let folder = parts();
    for text in WHOLE {
        fs::write(folder.0.path().join("site.yml"), text).expect("a file");
        assert_eq!(folder.errors(), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn broken_playbooks_are_refused_and_never_panic(
        which in 0..WHOLE.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, 0..BITS.len()), 1..6),
    ) {
        let mut text: Vec<char> = WHOLE[which].chars().collect();
        for (at, cut, bit) in edits {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, BITS[bit].chars());
        }
        thread_local!(static PARTS: Folder = parts());
        let result = PARTS.with(|folder| {
            let path: PathBuf = folder.0.path().join("site.yml");
            fs::write(&path, text.iter().collect::<String>()).expect("a file");
            folder.load()
        });
        match result {
            Ok(site) => site.plays.iter().for_each(|play| play.visit(&mut |visit| assert!(!visit.task.title().is_empty() || visit.task.name.is_some()))),
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }
}

#[test]
fn a_loader_can_be_shared_by_the_hosts() {
    fn shared<T: Send + Sync>() {}
    shared::<Loader>();
    shared::<Site>();
}
