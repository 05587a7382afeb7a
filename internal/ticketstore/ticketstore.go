// Package ticketstore keeps TLS session ticket keys in Redis, for tlsterm.Tickets of the
// processes of a fleet: one entry, read as a whole and replaced by compare and swap.
// What is in the entry is secret, and so is the URL: no error of this package quotes either.
package ticketstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Redis is one entry of a Redis server. It implements tlsterm.KeySource.
type Redis struct {
	client *redis.Client
	key    string
}

// silent keeps the library from printing to standard error; every failure of a call is returned.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

var silence = sync.OnceFunc(func() { redis.SetLogger(silent{}) })

// Open returns the entry key of the server at url: redis://, rediss:// or unix://. It connects with the first
// call. timeout bounds the parts of a call; a call as a whole is bounded by its context.
func Open(url, key string, timeout time.Duration) (*Redis, error) {
	silence()
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("redis_url: want redis://[user:password@]host:port/db, rediss://… or unix:///path") // err quotes it
	}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = timeout, timeout, timeout
	o.ContextTimeoutEnabled = true
	// One attempt: the caller tries again by itself, and takes its time.
	o.MaxRetries, o.DialerRetries = -1, 1
	o.PoolSize, o.MinIdleConns = 2, 0
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &Redis{client: redis.NewClient(o), key: key}, nil
}

// Load returns what is stored, or nil if nothing is.
func (r *Redis) Load(ctx context.Context) ([]byte, error) {
	text, err := r.client.Get(ctx, r.key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ticket keys from redis: %w", err)
	}
	return text, nil
}

// Swap replaces old by next, which Redis forgets after ttl, unless the entry is no longer old: then it returns
// false. It uses WATCH rather than a script, which not every server allows.
func (r *Redis) Swap(ctx context.Context, old, next []byte, ttl time.Duration) (bool, error) {
	swapped := false
	err := r.client.Watch(ctx, func(tx *redis.Tx) error {
		text, err := tx.Get(ctx, r.key).Bytes()
		switch {
		case errors.Is(err, redis.Nil):
			text = nil
		case err != nil:
			return err
		}
		if (text == nil) != (old == nil) || !bytes.Equal(text, old) {
			return nil
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			return p.Set(ctx, r.key, next, ttl).Err()
		})
		swapped = err == nil
		return err
	}, r.key)
	if errors.Is(err, redis.TxFailedErr) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write ticket keys to redis: %w", err)
	}
	return swapped, nil
}

// Close closes the connections.
func (r *Redis) Close() error { return r.client.Close() }
