mod policies;
mod schedules;
