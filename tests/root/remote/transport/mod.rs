//! Bytes to and from servers that nobody here wrote: nginx, python's http.server, an S3 server; over TLS, through
//! proxies, from mirrors.
mod bucket;
mod certificates;
mod nginx;
mod proxy;
mod scene;

mod buckets;
mod mirrors;
mod other_clouds;
mod proxies;
mod prune;
mod tls;
mod web;
