//! What we do not honour, and what makes no difference here.

/// The key files that are tried when none is named, in OpenSSH's order. Those of FIDO keys (`_sk`) are not among them:
/// only OpenSSH's own client can use them.
pub(super) const USUAL_KEYS: [&str; 3] = ["id_rsa", "id_ecdsa", "id_ed25519"];

/// A keyword that is not honoured.
pub(super) struct Missing {
    /// In small letters.
    pub keyword: &'static str,
    /// Values with which it asks for nothing.
    pub harmless: &'static [&'static str],
    /// What it means that it is not honoured.
    pub means: &'static str,
    /// Is it worth a word when the system's file says it? Distributions set some for everybody.
    pub system: bool,
}

const fn missing(
    keyword: &'static str,
    harmless: &'static [&'static str],
    means: &'static str,
    system: bool,
) -> Missing {
    Missing { keyword, harmless, means, system }
}

const OFF: &[&str] = &["no", "false"];
const NONE: &[&str] = &["none"];

/// What matters and is not honoured.
pub(super) const MISSING: [Missing; 27] = [
    missing("gssapiauthentication", OFF, "Kerberos can't log in", false),
    missing("hostbasedauthentication", OFF, "the host's own key can't log in", true),
    missing("pkcs11provider", NONE, "keys of smart cards can't log in, unless an agent holds them", false),
    missing("securitykeyprovider", &["internal"], "FIDO keys can't log in, unless an agent holds them", false),
    missing("kexalgorithms", &[], "the key exchange is chosen by libssh2", false),
    missing("ciphers", &[], "the cipher is chosen by libssh2", false),
    missing("macs", &[], "the message authentication is chosen by libssh2", false),
    missing("hostkeyalgorithms", &[], "the host key's algorithm is chosen by what known_hosts holds", false),
    missing("pubkeyacceptedalgorithms", &[], "keys of all algorithms are tried", false),
    missing("pubkeyacceptedkeytypes", &[], "keys of all algorithms are tried", false),
    missing("casignaturealgorithms", &[], "host certificates are not checked at all", false),
    missing("requiredrsasize", &[], "short RSA keys are not refused", false),
    missing("knownhostscommand", NONE, "no command is asked for host keys", true),
    missing("revokedhostkeys", NONE, "this list is not read; `@revoked` lines of known_hosts are", true),
    missing("verifyhostkeydns", OFF, "DNS is not asked for host keys", true),
    missing("canonicalizehostname", OFF, "the name is used as it is", true),
    missing("bindaddress", &[], "the system chooses the address to connect from", true),
    missing("bindinterface", &[], "the system chooses the interface to connect through", true),
    missing("proxyusefdpass", OFF, "the proxy command must carry the connection itself", true),
    missing("remotecommand", NONE, "this program starts its own", true),
    missing("forwardagent", OFF, "the agent is never forwarded", false),
    missing("tunnel", OFF, "no tunnel is made", true),
    missing("dynamicforward", &[], "no port is forwarded", true),
    missing("localforward", &[], "no port is forwarded", true),
    missing("remoteforward", &[], "no port is forwarded", true),
    missing("updatehostkeys", OFF, "no further host keys are learnt", false),
    missing("rekeylimit", &["default", "none", "default none"], "libssh2 renews keys when it sees fit", false),
];

/// Known to OpenSSH, and without meaning for one channel that carries frames.
pub(super) const QUIET: [&str; 57] = [
    "addkeystoagent",
    "afstokenpassing",
    "batchmode",
    "canonicaldomains",
    "canonicalizefallbacklocal",
    "canonicalizemaxdots",
    "canonicalizepermittedcnames",
    "channeltimeout",
    "checkhostip",
    "cipher",
    "clearallforwardings",
    "compression",
    "compressionlevel",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "enableescapecommandline",
    "enablesshkeysign",
    "escapechar",
    "exitonforwardfailure",
    "fallbacktorsh",
    "fingerprinthash",
    "forkafterauthentication",
    "forwardx11",
    "forwardx11timeout",
    "forwardx11trusted",
    "gatewayports",
    "gssapiclientidentity",
    "gssapidelegatecredentials",
    "gssapikexalgorithms",
    "gssapikeyexchange",
    "gssapirenewalforcesrekey",
    "gssapiserveridentity",
    "gssapitrustdns",
    "hostbasedacceptedalgorithms",
    "hostbasedkeytypes",
    "ignoreunknown",
    "ipqos",
    "kbdinteractivedevices",
    "localcommand",
    "loglevel",
    "logverbose",
    "nohostauthenticationforlocalhost",
    "numberofpasswordprompts",
    "obscurekeystroketiming",
    "permitlocalcommand",
    "permitremoteopen",
    "requesttty",
    "sendenv",
    "sessiontype",
    "setenv",
    "stdinnull",
    "streamlocalbindmask",
    "streamlocalbindunlink",
    "syslogfacility",
    "tcpkeepalive",
    "visualhostkey",
];
/// The same, of less use.
pub(super) const QUIET_TOO: [&str; 14] = [
    "xauthlocation",
    "tunneldevice",
    "tag",
    "useroaming",
    "usersh",
    "useprivilegedport",
    "protocol",
    "rhostsrsaauthentication",
    "rsaauthentication",
    "usekeychain",
    "warnweakcrypto",
    "versionaddendum",
    "smartcarddevice",
    "refuseconnection",
];
/// Those that are honoured; for "did you mean".
pub(super) const HONOURED: [&str; 26] = [
    "Host",
    "Match",
    "Include",
    "HostName",
    "User",
    "Port",
    "IdentityFile",
    "IdentitiesOnly",
    "CertificateFile",
    "ProxyJump",
    "ProxyCommand",
    "ConnectTimeout",
    "ConnectionAttempts",
    "ServerAliveInterval",
    "ServerAliveCountMax",
    "UserKnownHostsFile",
    "GlobalKnownHostsFile",
    "StrictHostKeyChecking",
    "HostKeyAlias",
    "HashKnownHosts",
    "IdentityAgent",
    "AddressFamily",
    "PubkeyAuthentication",
    "PasswordAuthentication",
    "KbdInteractiveAuthentication",
    "PreferredAuthentications",
];
