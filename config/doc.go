// Package config is the configuration file: its structs with their documentation,
// strict decoding with positions, defaults, validation and the generated reference.
package config
