/*
 * The protocol of docs/COHERENCE.md for one key: a version with a number and
 * two marks, a row, and for each process a copy in memory, a value that waits,
 * and a lane. Process 0 may die at any step; its locks fall with it.
 *
 * A read lies when it gives write x, and some other write began after x had
 * ended, and ended before the read began.
 *
 * Each -DLEAVE_... leaves one step out. check.sh runs those that must be found
 * to lie; LEAVE_NUMBER, _LANE, _DROP and _REPAIR need more writes than can be
 * searched through (the oracle in tests/proofs sees LANE and DROP).
 */
#define PROCESSES 3
#define WRITES    5 /* numbered from 1; 0 is what was there before */
#define NOTHING   15
#define NOBODY    7
#define NEVER     63

/* the version: one word, so each look or change is one step */
byte number; bit writing; bit behind;

/* the database: what is committed */
byte row = 0; byte row_seq = 0;
bit txn_open; /* `writing` in the shared file: a transaction is under way */

byte seq = 1;
byte lock = NOBODY; /* the writers' */
byte epoch = 0;

typedef process {
	bool dead;
	/* a copy in memory, and what it is stamped with */
	byte copy; byte copy_number; bit copy_writing; bit copy_behind; byte copy_epoch;
	/* a value that waits */
	byte pending; byte pending_number; byte pending_seq; byte pending_epoch;
	/* the lane */
	bool mark; byte mark_seq;
}
process p[PROCESSES];

/* --- the oracle -------------------------------------------------------------- */

byte clock = 1;
byte began[WRITES + 1];
byte ended[WRITES + 1];
byte writes = 0;
/* the latest beginning of a write that has ended */
byte overwritten = 0;

inline write_begins(begun)
{
	atomic { writes++; begun = writes; began[begun] = clock; ended[begun] = NEVER; clock++ }
}

inline write_ends(done_id)
{
	atomic {
		ended[done_id] = clock; clock++;
		if
		:: began[done_id] > overwritten -> overwritten = began[done_id]
		:: else
		fi
	}
}

inline check(seen, before)
{
	assert(seen == NOTHING || ended[seen] >= before)
}

/* --- the writers' lock ---------------------------------------------------------- */

inline take_lock()
{
	atomic { lock == NOBODY -> lock = me };
#ifndef LEAVE_REPAIR
	if
	:: txn_open -> atomic { writing = 0; txn_open = 0 }
	:: else
	fi
#endif
}

inline drop_lock()
{
	lock = NOBODY
}

/* --- writing through: value NOTHING deletes ---------------------------------------- */

inline through(stored)
{
	take_lock();
	txn_open = 1;
	seq++;
	tx_seq = seq;
#ifndef LEAVE_MARK
	atomic { number++; writing = 1; tx_number = number };
#else
	atomic { writing = 1; tx_number = number };
#endif
	/* commit */
	atomic { row = stored; row_seq = tx_seq };
	atomic {
		writing = 0;
		if
#ifndef LEAVE_NUMBER
		:: number == tx_number && stored != NOTHING ->
#else
		:: stored != NOTHING ->
#endif
			p[me].copy = stored; p[me].copy_number = number; p[me].copy_writing = 0;
			p[me].copy_behind = behind; p[me].copy_epoch = epoch
		:: else -> p[me].copy = NOTHING
		fi
	};
	txn_open = 0;
	drop_lock()
}

/* --- writing behind --------------------------------------------------------------------- */

inline flush()
{
	if
	:: p[me].pending != NOTHING ->
		take_lock();
		txn_open = 1;
		seq++;
		tx_seq = seq;
		atomic {
			if
#ifndef LEAVE_COMPARE
			:: number == p[me].pending_number && epoch == p[me].pending_epoch ->
#else
			:: true ->
#endif
				number++; writing = 1; p[me].pending_number = number; good = true
			:: else -> good = false
			fi
		};
		atomic {
			if
			:: good -> row = p[me].pending; row_seq = tx_seq
#ifndef LEAVE_DROP
			:: !good && row_seq <= p[me].pending_seq -> row = NOTHING
#endif
			:: else
			fi
		};
		writing = 0;
		txn_open = 0;
		/* after the commit, and only then */
		atomic { p[me].pending = NOTHING; behind = 0 };
		p[me].mark = false;
		drop_lock()
	:: else
	fi
}

inline put_behind(waiting)
{
	atomic { seq++; tx_seq = seq };
#ifndef LEAVE_LANE
	atomic { p[me].mark_seq = tx_seq; p[me].mark = true };
#endif
	tx_epoch = epoch;
	atomic {
		if
		:: behind && p[me].pending == NOTHING -> good = false
		:: else ->
			number++;
#ifndef LEAVE_BEHIND
			behind = 1;
#endif
			good = true;
			p[me].pending = waiting; p[me].pending_number = number;
			p[me].pending_seq = tx_seq; p[me].pending_epoch = tx_epoch;
			p[me].copy = waiting; p[me].copy_number = number; p[me].copy_writing = writing;
			p[me].copy_behind = behind; p[me].copy_epoch = tx_epoch
		fi
	};
	if
	:: good
	:: else ->
		if
		:: p[me].pending == NOTHING -> p[me].mark = false
		:: else
		fi;
		through(waiting)
	fi
}

/* --- what a dead process left --------------------------------------------------------------- */

inline reap()
{
	if
	:: p[0].dead && p[0].mark && me != 0 ->
		take_lock();
		if
		:: p[0].mark ->
			txn_open = 1;
			atomic { number++; writing = 1 };
#ifndef LEAVE_REAP
			atomic {
				if
				:: row_seq <= p[0].mark_seq -> row = NOTHING
				:: else
				fi
			};
#endif
			writing = 0;
			txn_open = 0;
			atomic {
				if
				/* another's as well? */
				:: p[1].mark && p[1].pending != NOTHING
				:: p[2].mark && p[2].pending != NOTHING
				:: else -> behind = 0
				fi
			};
			p[0].mark = false
		:: else
		fi;
		drop_lock()
	:: else
	fi
}

/* --- reading ------------------------------------------------------------------------------------ */

inline get()
{
	since = overwritten;
	value = NOTHING;
	/* one load of the version, one of the epoch: a hit in memory */
	atomic {
		at_number = number; at_writing = writing; at_behind = behind
	};
	at_epoch = epoch;
	good = (p[me].copy != NOTHING && p[me].copy_number == at_number &&
	        p[me].copy_writing == at_writing && p[me].copy_behind == at_behind &&
	        p[me].copy_epoch == at_epoch);
	if
	:: good -> value = p[me].copy
#ifndef LEAVE_LOOK
	:: !good && at_behind && p[me].pending != NOTHING ->
		atomic {
			if
			:: p[me].pending_number == number && p[me].pending_epoch == epoch ->
				value = p[me].pending
			:: else
			fi
		}
	:: !good && at_behind && p[me].pending == NOTHING ->
		skip; reap() /* and miss */
	:: !good && !at_behind ->
#else
	:: !good ->
#endif
		value = row;
		/* what is kept carries what was loaded before */
		atomic {
			p[me].copy = value;
			p[me].copy_number = at_number; p[me].copy_writing = at_writing;
			p[me].copy_behind = at_behind; p[me].copy_epoch = at_epoch
		}
	fi;
	check(value, since)
}

/* --- clear: no row is left, and the epoch moves ---------------------------------------------------- */

inline clear()
{
	take_lock();
	atomic { row = NOTHING; seq++; row_seq = seq };
#ifndef LEAVE_EPOCH
	epoch = seq;
#endif
	drop_lock()
}

inline settle()
{
	/* before a write of ours goes through, what waits here is written */
	if
	:: behind && p[me].pending != NOTHING -> flush()
	:: else
	fi;
	reap()
}

inline write_something()
{
	write_begins(id);
	if
	:: true -> settle(); through(id)
	:: true -> settle(); through(NOTHING)
	:: true -> put_behind(id)
	:: true -> clear()
	fi;
	write_ends(id)
}

/* --- processes ----------------------------------------------------------------------------------------- */

proctype writer(byte me; byte count)
{
	byte id, tx_number, tx_seq, tx_epoch, since, value, at_number, at_epoch;
	bit at_writing, at_behind;
	bool good;
	byte done = 0;

	{
		do
		:: done < count -> write_something(); done++
		:: done == count -> break
		od;
		if
		:: true -> get()
		:: true
		fi;
		flush()
	} unless {
		p[me].dead;
		atomic {
			p[me].copy = NOTHING; p[me].pending = NOTHING;
			if
			:: lock == me -> lock = NOBODY
			:: else
			fi
		}
	}
}

proctype reader(byte me; byte count)
{
	byte id, tx_number, tx_seq, tx_epoch, since, value, at_number, at_epoch;
	bit at_writing, at_behind;
	bool good;

	do
	:: count > 0 -> get(); count--
	:: count == 0 -> break
	od
}

init
{
	atomic {
		p[0].copy = NOTHING; p[1].copy = NOTHING; p[2].copy = NOTHING;
		p[0].pending = NOTHING; p[1].pending = NOTHING; p[2].pending = NOTHING;
		ended[0] = 0; row_seq = 1; seq = 1;
		run writer(0, FIRST);
		run writer(1, SECOND);
		run reader(2, READS)
	}
#ifdef DEATH
	/* at any step */
	if
	:: p[0].dead = true
	:: true
	fi
#endif
}
