//! Who the server is, who may do everything there, and the key that it signs service accounts' tokens with: made anew
//! for each server, valid for nobody else.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

/// The group that RBAC gives every right.
const ADMINISTRATORS: &str = "system:masters";
/// Who has only the rights that a test gives.
pub const USER: &str = "lockstep";

/// Files that kube-apiserver and its clients read.
pub struct Credentials {
    /// The certificate that signed all the others.
    pub authority: PathBuf,
    /// The server's certificate.
    pub server_certificate: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// The key that tokens of service accounts are signed with.
    pub account_key: PathBuf,
    /// Its public half.
    pub account_public_key: PathBuf,
    /// How a client reaches the server as an administrator. Names other files of this directory.
    pub kubeconfig: PathBuf,
    /// How a client reaches it as [`USER`], who has the rights that it was given, and at first none.
    pub user_kubeconfig: PathBuf,
}

impl Credentials {
    /// Makes them in `dir`, for a server at `port` of 127.0.0.1.
    pub fn make(dir: &Path, port: u16) -> Result<Self> {
        let authority = make_authority().context("make the certificate authority")?;
        let (server, server_key) =
            make_certificate(&authority, "kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth)
                .context("make the server's certificate")?;
        let (admin, admin_key) =
            make_certificate(&authority, "admin", Some(ADMINISTRATORS), ExtendedKeyUsagePurpose::ClientAuth)
                .context("make the administrator's certificate")?;
        let (user, user_key) = make_certificate(&authority, USER, None, ExtendedKeyUsagePurpose::ClientAuth)
            .context("make the user's certificate")?;
        let account_key = KeyPair::generate().context("make the key of service accounts")?;
        let write = |name: &str, text: String| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let authority_path = write("ca.crt", authority.pem())?;
        let admin_path = write("admin.crt", admin)?;
        let admin_key_path = write("admin.key", admin_key)?;
        let (user_path, user_key_path) = (write("user.crt", user)?, write("user.key", user_key)?);
        Ok(Credentials {
            server_certificate: write("server.crt", server)?,
            server_key: write("server.key", server_key)?,
            account_key: write("account.key", account_key.serialize_pem())?,
            account_public_key: write("account.pub", account_key.public_key_pem())?,
            kubeconfig: write("kubeconfig", kubeconfig(port, &authority_path, &admin_path, &admin_key_path))?,
            user_kubeconfig: write("user.kubeconfig", kubeconfig(port, &authority_path, &user_path, &user_key_path))?,
            authority: authority_path,
        })
    }
}

fn make_authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "lockstep-test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// Certificate and key, as PEM. Kubernetes reads the user from the common name and the group from the organization.
fn make_certificate(
    authority: &CertifiedIssuer<'static, KeyPair>,
    user: &str,
    group: Option<&str>,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String)> {
    let names = match usage {
        ExtendedKeyUsagePurpose::ServerAuth => vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        _ => Vec::new(),
    };
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// JSON is YAML: every reader of kubeconfig files takes it.
fn kubeconfig(port: u16, authority: &Path, certificate: &Path, key: &Path) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "test",
            "cluster": { "server": format!("https://127.0.0.1:{port}"), "certificate-authority": authority },
        }],
        "users": [{ "name": "client", "user": { "client-certificate": certificate, "client-key": key } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "client" } }],
        "current-context": "test",
    });
    format!("{config:#}\n")
}
