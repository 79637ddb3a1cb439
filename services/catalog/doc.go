// Package catalog is the record of who may call what, under which plan: accounts
// with their apps, credentials and subscriptions, APIs with their operations,
// products with their plans, and access tokens.
//
// In come the requests of tollway.catalog.v1; out go resources, and in the same
// transaction as every change an entry of the audit log and a version for the
// topic (see outbox). Every kind goes through one code path: package kind says
// what is particular to it, and the hooks in this package what depends on other
// resources, on the caller or on the time. A crash loses requests that were not
// answered: their transactions are there as a whole or not at all. When access
// tokens were last used is lost for up to a minute.
package catalog
