package reports

import (
	"errors"
	"fmt"
	"time"
)

// Config bounds what a query may cost.
type Config struct {
	// MaxExecutionTime stops a query that takes longer.
	MaxExecutionTime time.Duration `yaml:"max_execution_time"`
	// MaxRowsToRead refuses a query that would read more rows.
	MaxRowsToRead int64 `yaml:"max_rows_to_read"`
	// MaxMemoryBytes stops a query that needs more memory in the store.
	MaxMemoryBytes int64 `yaml:"max_memory_bytes"`
	// MaxResultRows is the most that limit can ask for.
	MaxResultRows int `yaml:"max_result_rows"`
	// MaxConcurrent is how many queries run at once; further ones wait.
	MaxConcurrent int `yaml:"max_concurrent"`
	// RetentionDays is how long calls and minutes are kept, as the tables were
	// made with; a query that needs what is gone is refused. 0: not checked.
	RetentionDays int `yaml:"retention_days"`
	// RollupRetentionDays is the same for the other tables.
	RollupRetentionDays int `yaml:"rollup_retention_days"`
}

// DefaultConfig is right for a small machine.
func DefaultConfig() Config {
	return Config{
		MaxExecutionTime: 30 * time.Second,
		MaxRowsToRead:    2_000_000_000,
		MaxMemoryBytes:   2 << 30,
		MaxResultRows:    100_000,
		MaxConcurrent:    4,
	}
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	positive := func(name string, value int64) {
		if value <= 0 {
			errs = append(errs, fmt.Errorf("%s must be positive", name))
		}
	}
	positive("max_rows_to_read", c.MaxRowsToRead)
	positive("max_memory_bytes", c.MaxMemoryBytes)
	positive("max_result_rows", int64(c.MaxResultRows))
	positive("max_concurrent", int64(c.MaxConcurrent))
	if c.MaxExecutionTime < time.Second {
		errs = append(errs, errors.New("max_execution_time must be a second or more"))
	}
	if c.RetentionDays < 0 || c.RollupRetentionDays < 0 {
		errs = append(errs, errors.New("retention_days and rollup_retention_days must not be negative"))
	}
	return errors.Join(errs...)
}

// limits is what follows SETTINGS in every statement. The store refuses what
// exceeds them; it never cuts an answer short.
func (c Config) limits() string {
	return fmt.Sprintf("max_execution_time = %d, max_rows_to_read = %d, max_memory_usage = %d, max_result_rows = %d, "+
		"read_overflow_mode = 'throw', result_overflow_mode = 'throw', timeout_overflow_mode = 'throw', "+
		// A duplicate lies in the partition of its original, since both have one hour.
		"do_not_merge_across_partitions_select_final = 1",
		int(c.MaxExecutionTime.Seconds()), c.MaxRowsToRead, c.MaxMemoryBytes, c.MaxResultRows)
}
