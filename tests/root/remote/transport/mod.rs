//! Transports to servers of other projects: nginx, Python's http.server, an S3 server; over TLS, through proxies, from mirrors.
mod bucket;
mod certificates;
mod fixture;
mod nginx;
mod proxy;

mod buckets;
mod mirrors;
mod other_clouds;
mod proxies;
mod prune;
mod tls;
mod web;
