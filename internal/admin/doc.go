// Package admin is the admin endpoint: metrics, health, profiles and the API through which
// operators look into the gateway, reload it and drain backends.
package admin
