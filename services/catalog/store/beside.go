package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tollway/tollway/services/platform/ledger"
	"github.com/tollway/tollway/sql"
)

// What stands beside the resources: settings of the installation, sets of
// applied resources, and when tokens were used. None of it is audited or
// published, because no resource has another version by it.

var (
	settingGet = sql.LedgerQuery("setting_get")
	settingPut = sql.LedgerQuery("setting_put")
	settingAdd = sql.LedgerQuery("setting_add")
	setPut     = sql.LedgerQuery("set_put")
	setGet     = sql.LedgerQuery("set_get")
	setMembers = sql.LedgerQuery("set_members")
	tokenUsed  = sql.LedgerQuery("token_used")
)

// Setting reads a setting, "" if there is none.
func Setting(ctx context.Context, tx *ledger.Tx, key string) (string, error) {
	return optional(tx.QueryRow(ctx, settingGet, key), "read setting "+key)
}

// PutSetting writes a setting.
func PutSetting(ctx context.Context, tx *ledger.Tx, key, value string) error {
	if _, err := tx.Exec(ctx, settingPut, key, value); err != nil {
		return fmt.Errorf("write setting %s: %w", key, err)
	}
	return nil
}

// AddSetting writes a setting if there is none, and returns the one that holds.
func AddSetting(ctx context.Context, tx *ledger.Tx, key, value string) (string, error) {
	if _, err := tx.Exec(ctx, settingAdd, key, value); err != nil {
		return "", fmt.Errorf("write setting %s: %w", key, err)
	}
	return Setting(ctx, tx, key)
}

// PutInSet notes with which set a resource was applied last.
func PutInSet(ctx context.Context, tx *ledger.Tx, name, set string) error {
	if _, err := tx.Exec(ctx, setPut, name, set); err != nil {
		return fmt.Errorf("put %s into a set: %w", name, err)
	}
	return nil
}

// SetOf is the set that a resource was applied with last, "" for none.
func SetOf(ctx context.Context, tx *ledger.Tx, name string) (string, error) {
	return optional(tx.QueryRow(ctx, setGet, name), "read the set of "+name)
}

// InSet lists the resources that were applied last with a set.
func InSet(ctx context.Context, tx *ledger.Tx, set string) ([]string, error) {
	names, err := ledger.Select(ctx, tx, func(row ledger.Row) (name string, err error) {
		err = row.Scan(&name)
		return name, err
	}, setMembers, set)
	if err != nil {
		return nil, fmt.Errorf("list set %q: %w", set, err)
	}
	return names, nil
}

// NoteUse writes when a token was used; nothing happens if there is none of
// that name.
func NoteUse(ctx context.Context, tx *ledger.Tx, token string, at time.Time) error {
	if _, err := tx.Exec(ctx, tokenUsed, token, at.UnixMicro()); err != nil {
		return fmt.Errorf("note the use of %s: %w", token, err)
	}
	return nil
}

func optional(row ledger.Row, doing string) (string, error) {
	var value string
	err := row.Scan(&value)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	return value, nil
}
