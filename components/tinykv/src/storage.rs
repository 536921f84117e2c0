//! Storages by their URLs: how each is reached, and how long one that is away is waited for.

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, Error, ObjectStore, ObjectStoreScheme, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// How often a request is made again: about a minute in all, which is enough for a storage that starts anew.
const RETRIES: usize = 20;
/// No request is made again after this time: what signs it is no longer taken then.
const RETRIES_WITHIN: Duration = Duration::from_mins(15);
/// The least and the most between two of them.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// A request may take long, for what is fetched is large and lines are slow; but something has to come.
const TIMES: [(&str, &str); 2] = [("timeout", "1day"), ("read_timeout", "2min")];

/// A storage of any kind, told by `settings`.
macro_rules! reached {
    ($builder:ty, $url:expr, $settings:expr) => {{
        let backoff = BackoffConfig { init_backoff: PAUSES[0], max_backoff: PAUSES[1], base: 3.0 };
        let retries = RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRIES_WITHIN };
        let begun = <$builder>::new().with_url($url).with_retry(retries);
        let told = $settings.into_iter().fold(begun, |builder, (name, value)| match name.parse() {
            Ok(key) => builder.with_config(key, value),
            // It is meant for another one.
            Err(_) => builder,
        });
        Arc::new(told.build()?)
    }};
}

/// The storage that a URL names, and the path in it.
pub fn connect(url: &str) -> Result<(Arc<dyn ObjectStore>, Path), Error> {
    // A second provider in the process is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let nothing = || {
        Error::NotSupported {
        source: "backups go to s3://bucket/path, gs://bucket/path, az://container/path, http(s)://host/path or file:///folder".into(),
    }
    };
    let parsed = url.parse().map_err(|_| nothing())?;
    let (scheme, path) = ObjectStoreScheme::parse(&parsed).map_err(|_| nothing())?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut settings = settings(url, environment);
    settings.extend(TIMES.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::Local => Arc::new(LocalFileSystem::new()),
        ObjectStoreScheme::AmazonS3 => reached!(AmazonS3Builder, url, settings),
        ObjectStoreScheme::GoogleCloudStorage => reached!(GoogleCloudStorageBuilder, url, settings),
        ObjectStoreScheme::MicrosoftAzure => reached!(MicrosoftAzureBuilder, url, settings),
        ObjectStoreScheme::Http => {
            let host = format!("{}://{}", parsed.scheme(), parsed.authority());
            reached!(HttpBuilder, host, settings)
        }
        // In memory it would be gone with the program.
        _ => return Err(nothing()),
    };
    Ok((store, path))
}

/// What a storage calls the place that holds objects, and the variables that it is reached by.
pub fn variables(url: &str) -> (&'static str, &'static str) {
    match url.split_once("://").map_or("", |(scheme, _)| scheme) {
        "s3" | "s3a" => ("bucket", "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL"),
        "gs" => ("bucket", "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT_KEY"),
        "az" | "adl" | "azure" | "abfs" | "abfss" => {
            ("container", "AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN")
        }
        _ => ("folder", "none: the URL is all that it takes"),
    }
}

/// Whether what failed was asking the cloud that this machine is in for credentials, as is done when there are no others.
pub fn is_of_this_machine(said: &Error) -> bool {
    let said = said.to_string();
    ["169.254.", "metadata.google.internal"].iter().any(|address| said.contains(address))
}

/// What a storage is told of the environment, in the words of `object_store`: variables that are meant for one, and no others, whatever
/// they are called.
fn settings(url: &str, environment: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    const STORAGES: [&str; 5] = ["aws_", "google_", "azure_", "identity_", "msi_"];
    let as_known = |name: String| match name.as_str() {
        // As az has them.
        "azure_storage_account" => "azure_storage_account_name".to_owned(),
        "azure_storage_key" => "azure_storage_account_key".to_owned(),
        _ => name,
    };
    let named = environment.map(|(name, value)| (as_known(name.to_lowercase()), value));
    let mut settings: Vec<(String, String)> =
        named.filter(|(name, _)| STORAGES.iter().any(|storage| name.starts_with(storage))).collect();
    // Who names an address without TLS means it.
    let is_address = |name: &str| name.contains("endpoint") || name.ends_with("base_url");
    let in_the_clear = |text: &str| text.starts_with("http://");
    if in_the_clear(url) || settings.iter().any(|(name, value)| is_address(name) && in_the_clear(value)) {
        settings.push(("allow_http".to_owned(), "true".to_owned()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_is_told_what_is_meant_for_it() {
        let environment = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_ENDPOINT_URL", "http://minio:9000"),
            ("AZURE_STORAGE_KEY", "key"),
            ("BUCKET", "of something else"),
            ("TOKEN", "of something else"),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let told = settings("s3://bucket/kv", environment.into_iter());
        let told: Vec<_> = told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            told,
            [
                ("aws_access_key_id", "id"),
                ("aws_endpoint_url", "http://minio:9000"),
                ("azure_storage_account_key", "key"),
                ("allow_http", "true"),
            ]
        );
        assert!(settings("https://host/folder", std::iter::empty()).is_empty());
        assert_eq!(settings("http://host/folder", std::iter::empty()).len(), 1);
    }

    #[test]
    fn what_keeps_nothing_is_no_storage() {
        for url in ["memory:///kv", "ftp://host/kv", "s3:///kv", "file://host/kv", "s3://bucket/a//b"] {
            assert!(connect(url).is_err(), "{url}");
        }
        for url in ["file:///kv", "https://host/kv", "https://host:8443/kv"] {
            let (_, path) = connect(url).expect(url);
            assert_eq!(path.as_ref(), "kv");
        }
    }
}
